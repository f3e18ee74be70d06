# Two commands: `make demo` shows the whole job on real images, `make test` runs the tests. Both set up what they need.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo studio image image-labels image-test k8s-render k8s-check k8s-run test test-studio soak check format docs \
	bench bench-storage bench-detect bench-lightly bench-embedding bench-select bench-quality clean

PYTHON ?= python3
VENV := .venv
STUDIO := .studio
RUN := $(VENV)/bin/python

help: ## Lists the targets.
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/bin/python $(STUDIO)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 (Debian: apt-get install python3 python3-venv)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is needed, and $(PYTHON) is $$($(PYTHON) --version): set PYTHON, as in make PYTHON=python3.11 demo."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python cannot make virtual environments here: apt-get install python3-venv"; exit 1; }
	@echo "Making a virtual environment in $(@:/bin/python=) ..."
	@$(PYTHON) -m venv $(@:/bin/python=)

$(VENV)/.runtime: requirements/runtime.txt requirements/detectron2.txt scripts/install.sh | $(VENV)/bin/python
	@echo "Installing the job's packages ..."
	@scripts/install.sh $(RUN)
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing what the tests need ..."
	@$(RUN) -m pip install --disable-pip-version-check --quiet --requirement requirements/dev.txt
	@touch $@

setup: $(VENV)/.dev ## Installs everything, pinned, into .venv.

demo: $(VENV)/.runtime ## Runs the whole job on 250 real street frames with a real COCO detector.
	@$(RUN) -m demo.run

# Every requirement is pinned and comes as a wheel: nothing is looked for beyond the list, and nothing is built.
INSTALL_STUDIO := $(STUDIO)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --only-binary :all:

$(STUDIO)/.runtime: requirements/studio.txt | $(STUDIO)/bin/python
	@echo "Installing LightlyStudio (1.2 GB; some minutes) ..."
	@$(INSTALL_STUDIO) --requirement $<
	@touch $@

$(STUDIO)/.dev: requirements/studio-dev.txt $(STUDIO)/.runtime
	@echo "Installing what its tests need ..."
	@$(INSTALL_STUDIO) --requirement $<
	@touch $@

studio: $(if $(OUTPUT),$(STUDIO)/.runtime) ## Shows results in LightlyStudio: make studio OUTPUT=demo/output (INPUT and PORT, if need be).
	@test -n "$$OUTPUT" || { echo "Say whose results, as in make studio OUTPUT=demo/output."; exit 64; }
	@$(STUDIO)/bin/python -m studio --output "$$OUTPUT" --input "$$INPUT" --port "$$PORT"

# What the image says of itself. Of a tree with changes that are not committed, the commit says so.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' job/__init__.py)
COMMIT = $(shell git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)$(if $(shell git status --porcelain 2>/dev/null),-changed)
LABELS = --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT)
DOCKER ?= docker
IMAGE ?= coralpick

image: ## Builds the image (BASE_IMAGE, TORCH_INDEX_URL and BAKE_WEIGHTS, if need be).
	@DOCKER_BUILDKIT=1 $(DOCKER) build --platform linux/amd64 --tag $(IMAGE) $(LABELS) \
		$(foreach each,BASE_IMAGE TORCH_INDEX_URL BAKE_WEIGHTS,$(if $($(each)),--build-arg $(each)=$($(each)))) .
	@echo "Next: docker run --gpus all -e CORAL_INPUT=... -e CORAL_OUTPUT=... $(IMAGE)"

image-labels:
	@echo "$(LABELS)"

image-test: $(VENV)/.dev ## Builds the image with a container engine of its own, and tests it (root, Debian 12; 20 minutes).
	@$(RUN) -m demo.fetch
	@tests/image/prepare.sh
	@$(RUN) -m pytest -m image -s tests/image
	@echo "The image works. Next: make image, then k8s/README.md or cloud/README.md."

OVERLAY ?= base
KUBECTL := command -v kubectl >/dev/null || { echo "There is no kubectl: https://kubernetes.io/docs/tasks/tools/" >&2; exit 1; }
k8s-render: ## Prints the manifests for Kubernetes: make k8s-render OVERLAY=base (sharded, jobset, eks, gke, your own folder).
	@$(KUBECTL)
	@k8s/run.sh --render "$(OVERLAY)"

k8s-check: $(VENV)/.dev ## Holds the manifests to the schemas of Kubernetes 1.29 to 1.37, and to what these miss.
	@$(KUBECTL)
	@$(RUN) -m pytest tests/k8s/test_manifests.py

k8s-run: ## Runs the Jobs of an overlay one after the other: make k8s-run OVERLAY=sharded.
	@$(KUBECTL)
	@k8s/run.sh "$(OVERLAY)"

# Azure's emulator comes from npm, and is large: without npm its tests are skipped, and say so.
AZURITE := .cache/azurite/node_modules/azurite
$(AZURITE):
	@command -v npm >/dev/null || { echo "There is no npm: tests against Azure's emulator will be skipped."; exit 0; }; \
	echo "Installing Azure's emulator for the tests ..."; \
	mkdir -p .cache/azurite && npm install --prefix .cache/azurite --no-save --no-fund --no-audit --loglevel=error azurite@3.37.0

test: $(VENV)/.dev $(AZURITE) ## Runs all tests.
	@$(RUN) -m demo.fetch
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
	@echo "All tests passed. Next: make demo, or read ARCHITECTURE.md."

test-studio: $(VENV)/.runtime $(STUDIO)/.dev ## Runs the tests of `make studio`, in a browser if Debian's chromium is there (2 minutes).
	@$(RUN) -m demo.fetch
	@$(STUDIO)/bin/python -m pytest -c tests/studio/pytest.ini tests/studio

check: $(VENV)/.dev ## Lints, checks the format, the types and the imports between rooms.
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports

format: $(VENV)/.dev ## Formats the code.
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: $(VENV)/.runtime ## Writes the tables of settings, outputs, exports and scores into README.md and docs/.
	@$(RUN) -m scripts.docs

soak: $(VENV)/.dev ## Kills the job, and its S3 server, at 20 random points and compares the results (20 minutes).
	@$(RUN) -m demo.fetch
	@$(RUN) -m pytest -m soak -s tests/e2e/test_soak.py

bench: bench-storage bench-detect bench-lightly bench-select bench-quality bench-embedding ## Runs all benchmarks.

bench-detect: $(VENV)/.dev ## Measures the map step beside the bare model and detectron2's DefaultPredictor (eight minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.detect --json benchmarks/results/detect.json

bench-select: $(VENV)/.dev ## Measures the selection beside lightly-mundig, scikit-learn and numpy (ten minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.select --json benchmarks/results/select.json

bench-quality: $(VENV)/.dev ## Measures what a detector gains from the picks, beside random ones (half an hour).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.quality --json benchmarks/results/quality.json

bench-lightly: $(VENV)/.dev ## Measures the upload to Lightly beside one call after the other (five minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.lightly_upload --json benchmarks/results/lightly_upload.json

bench-storage: $(VENV)/.dev ## Measures listing and reading of a bucket beside boto3 and obstore (a minute).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.storage --json benchmarks/results/storage.json

bench-embedding: $(VENV)/.dev ## Measures the embeddings: which one keeps the shots of a clip together (an hour).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.embedding --json benchmarks/results/embedding.json

clean: ## Removes the environment, the caches and the demo's output.
	rm -rf $(VENV) $(STUDIO) .cache demo/output .mypy_cache .ruff_cache .pytest_cache .hypothesis
