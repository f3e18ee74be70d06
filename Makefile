# Start with `make demo`, which runs the whole job on real images, or `make test`. Each target installs what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-video picture reselect studio image image-labels image-sbom image-scan image-test k8s-render k8s-run k8s-check \
	check format lock docs test test-integrations test-studio soak clean \
	gpu-test gpu-rehearse gpu-bundle bench bench-gpu bench-detect bench-feed bench-select bench-quality \
	bench-engine bench-lightly bench-storage bench-embedding bench-projection bench-reduce bench-video

PYTHON ?= python3
VENV := .venv
STUDIO := .studio
RUN := $(VENV)/bin/python

help: ## Lists the targets.
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} /^[a-z][a-z0-9-]*:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

$(VENV)/bin/python $(STUDIO)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: install Python 3.11 (Debian: apt-get install python3 python3-venv)."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "Python 3.11 is required, and $(PYTHON) is $$($(PYTHON) --version): set PYTHON, for example make PYTHON=python3.11 demo."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot create virtual environments: install python3-venv (Debian: apt-get install python3-venv)."; exit 1; }
	@echo "Creating a virtual environment in $(@:/bin/python=) ..."
	@$(PYTHON) -m venv $(@:/bin/python=)

RUNTIME_PINS := $(addprefix requirements/,runtime.txt torch.txt detectron2.txt timm.txt video.txt)
$(VENV)/.runtime: $(RUNTIME_PINS) scripts/install.sh | $(VENV)/bin/python
	@echo "Installing the packages of the job ..."
	@scripts/install.sh $(RUN)
	@touch $@

# Every requirement is pinned, has a hash and comes as a wheel: pip resolves no dependency and builds nothing.
INSTALL_PINS := pip install --disable-pip-version-check --quiet --no-deps --require-hashes --only-binary :all:

$(VENV)/.dev: requirements/dev.txt $(VENV)/.runtime
	@echo "Installing the packages of the tests ..."
	@$(RUN) -m $(INSTALL_PINS) --requirement requirements/dev.txt
	@touch $@

$(STUDIO)/.runtime: requirements/studio.txt | $(STUDIO)/bin/python
	@echo "Installing LightlyStudio (1.2 GB; a few minutes) ..."
	@$(STUDIO)/bin/python -m $(INSTALL_PINS) --requirement $<
	@touch $@

$(STUDIO)/.dev: requirements/studio-dev.txt $(STUDIO)/.runtime
	@echo "Installing the packages of its tests ..."
	@$(STUDIO)/bin/python -m $(INSTALL_PINS) --requirement $<
	@touch $@

##@ Use

setup: $(VENV)/.dev ## Installs all packages, pinned, into .venv.

demo: $(VENV)/.runtime ## Runs the whole job on 250 real street frames with a real COCO detector.
	@$(RUN) -m demo.run

demo-video: $(VENV)/.runtime ## Runs the job on the demo's clip itself, and compares the picks with those of make demo.
	@test -e demo/output/_SUCCESS || $(RUN) -m demo.run
	@$(RUN) -m demo.clip

reselect: $(VENV)/.runtime ## Replaces rejected picks: make reselect OUTPUT=demo/output REJECTED=rejected.txt.
	@test -n "$$OUTPUT" -a -n "$$REJECTED" || { echo "Set OUTPUT to the results and REJECTED to the list of rejected picks, which report.html saves."; exit 64; }
	@$(RUN) -m scripts.reselect "$$OUTPUT" "$$REJECTED"

studio: $(if $(OUTPUT),$(STUDIO)/.runtime) ## Opens results in LightlyStudio: make studio OUTPUT=demo/output (optional: INPUT, PORT).
	@test -n "$$OUTPUT" || { echo "Set OUTPUT to the results to open, for example make studio OUTPUT=demo/output."; exit 64; }
	@$(STUDIO)/bin/python -m studio --output "$$OUTPUT" --input "$$INPUT" --port "$$PORT"

##@ Image

# The labels of the image. If the checkout has uncommitted changes, the commit ends in -changed. The time is that of the
# commit, so that the same commit gives the same labels.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' job/__init__.py)
COMMIT = $(shell git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)$(if $(shell git status --porcelain 2>/dev/null),-changed)
CREATED = $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LABELS = --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) --build-arg CREATED=$(CREATED)
DOCKER ?= docker
IMAGE ?= coralpick

image: ## Builds the image (optional: BASE_IMAGE, TORCH_INDEX_URL, VIDEO=0, BAKE_WEIGHTS, IMAGE, ATTEST=0).
	@DOCKER="$(DOCKER)" ATTEST="$(ATTEST)" scripts/build_image.sh --platform linux/amd64 --tag $(IMAGE) $(LABELS) \
		$(foreach name,BASE_IMAGE TORCH_INDEX_URL VIDEO BAKE_WEIGHTS,$(if $($(name)),--build-arg $(name)=$($(name)))) .
	@echo "Next: docker run --gpus all -e CORAL_INPUT=... -e CORAL_OUTPUT=... $(IMAGE)"

SBOM ?= coralpick.spdx.json
image-sbom: $(VENV)/.dev ## Writes the packages inside the image to a file (optional: IMAGE, SBOM).
	@SYFT_CHECK_FOR_APP_UPDATE=false $(VENV)/bin/syft scan docker:$(IMAGE) --quiet --output spdx-json=$(SBOM)
	@echo "$(SBOM) lists what $(IMAGE) contains, in SPDX."

image-scan: ## Looks for known vulnerabilities in the image that have a fix, with grype or trivy (optional: IMAGE).
	@if command -v grype >/dev/null; then grype docker:$(IMAGE) --only-fixed --fail-on high; \
	elif command -v trivy >/dev/null; then trivy image --ignore-unfixed --severity HIGH,CRITICAL --exit-code 1 $(IMAGE); \
	else echo "Neither grype nor trivy was found: install one of them, then run make image-scan again." >&2; exit 1; fi

image-labels:
	@echo "$(LABELS)"

image-test: $(VENV)/.dev ## Builds the image with its own container engine and tests it (root, Debian 12; 20 minutes).
	@$(RUN) -m demo.fetch
	@tests/image/prepare.sh
	@$(RUN) -m pytest -m image -s tests/image
	@echo "All tests of the image passed. Next: make image, then k8s/README.md or cloud/README.md."

##@ Cluster

OVERLAY ?= base
KUBECTL := command -v kubectl >/dev/null || { echo "kubectl was not found: install it from https://kubernetes.io/docs/tasks/tools/" >&2; exit 1; }
k8s-render: ## Prints the manifests of an overlay or of your own folder: make k8s-render OVERLAY=sharded.
	@$(KUBECTL)
	@k8s/run.sh --render "$(OVERLAY)"

k8s-run: ## Runs the Jobs of an overlay, one after the other: make k8s-run OVERLAY=sharded.
	@$(KUBECTL)
	@k8s/run.sh "$(OVERLAY)"

k8s-check: $(VENV)/.dev ## Tests the manifests against the schemas of Kubernetes 1.29 to 1.37 and against a stand-in cluster.
	@$(KUBECTL)
	@$(RUN) -m pytest tests/k8s

##@ Develop

# Azure's emulator is a large npm package. Without npm, its tests are skipped.
AZURITE := .cache/azurite/node_modules/azurite
$(AZURITE):
	@command -v npm >/dev/null || { echo "npm was not found: the tests with Azure's emulator will be skipped."; exit 0; }; \
	echo "Installing Azure's emulator for the tests ..."; \
	mkdir -p .cache/azurite && npm install --prefix .cache/azurite --no-save --no-fund --no-audit --loglevel=error azurite@3.37.0

# The rules of accessibility for the test of the report. Without npm, it is skipped.
AXE := .cache/axe/node_modules/axe-core
$(AXE):
	@command -v npm >/dev/null || { echo "npm was not found: the test of the report's accessibility will be skipped."; exit 0; }; \
	echo "Installing axe-core for the test of the report ..."; \
	mkdir -p .cache/axe && npm install --prefix .cache/axe --no-save --no-fund --no-audit --loglevel=error axe-core@4.14.1

# Ultralytics stays outside of the environment because of its licence. Without it, the tests with its files are skipped.
TOOLS := .cache/tools
$(TOOLS)/.installed: requirements/ultralytics.txt $(VENV)/.dev
	@echo "Installing Ultralytics for the tests (11 MB) ..."
	@rm -rf $(TOOLS)
	@if $(RUN) -m $(INSTALL_PINS) --target $(TOOLS) --requirement $<; then touch $@; else echo "It could not be installed: the tests with its files will be skipped."; fi

check: $(VENV)/.dev ## Checks style, formatting, types, the imports between packages and the length of sentences.
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@$(RUN) -m scripts.english

format: $(VENV)/.dev ## Formats the code.
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

lock: $(VENV)/.dev ## Writes the hashes of the pinned packages into requirements/.
	@$(RUN) -m scripts.lock

picture: $(VENV)/.dev ## Takes the picture of the demo's report for README.md, after make demo; needs Chromium.
	@$(RUN) -m scripts.picture

docs: $(VENV)/.runtime ## Writes the tables of settings, outputs, exports and scores into docs/.
	@$(RUN) -m scripts.docs

test: $(VENV)/.dev $(AZURITE) $(AXE) $(TOOLS)/.installed ## Runs the tests (20 minutes on two cores).
	@$(RUN) -m demo.fetch
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal
	@echo "All tests passed. Next: make demo, or read ARCHITECTURE.md."

# Tools that read docs/integrations/, each in a folder of its own, since their pins contradict each other.
INTEGRATIONS := .cache/integrations
$(INTEGRATIONS)/.installed: $(wildcard requirements/integrations/*.txt) $(VENV)/.dev
	@rm -rf $(INTEGRATIONS)
	@for file in requirements/integrations/*.txt; do \
		echo "Installing $$file ..."; \
		$(RUN) -m pip install --disable-pip-version-check --quiet --prefer-binary \
			--target $(INTEGRATIONS)/$$(basename $$file .txt) --requirement $$file || exit 1; \
	done
	@touch $@

test-integrations: $(INTEGRATIONS)/.installed ## Reads docs/integrations/ with Argo, Airflow, SkyPilot, DVC and more, and logs to MLflow (2 GB).
	@$(RUN) -m demo.fetch
	@$(RUN) -m pytest tests/integrations

test-studio: $(VENV)/.runtime $(STUDIO)/.dev ## Tests `make studio`, in Debian's chromium if it is installed (2 minutes).
	@$(RUN) -m demo.fetch
	@$(STUDIO)/bin/python -m pytest -c tests/studio/pytest.ini tests/studio

# With SOAK_KILLS, a short run: only that many kills, every fifth frame, and no runs in shards.
soak: $(VENV)/.dev ## Kills the job or its S3 server 60 times, also on videos, and compares the results (optional: SOAK_KILLS).
	@$(RUN) -m demo.fetch
	@$(RUN) -m pytest -m soak -s tests/e2e/test_soak.py$(if $(SOAK_KILLS), -k killed --numprocesses 2)

clean: ## Removes the environments, the caches and the results of the demo.
	rm -rf $(VENV) $(STUDIO) .cache demo/output demo/output-2 demo/output-video .mypy_cache .ruff_cache .pytest_cache .hypothesis

##@ Benchmarks

bench: bench-storage bench-feed bench-video bench-detect bench-engine bench-lightly bench-select bench-blocks bench-reduce bench-quality bench-embedding bench-projection ## Runs all benchmarks.

bench-detect: $(VENV)/.dev ## Compares the map step with the bare model and detectron2's DefaultPredictor (8 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.detect --json benchmarks/results/detect.json

bench-engine: $(VENV)/.dev ## Measures what Ray costs, and how images/s grow with workers (5 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.engine --json benchmarks/results/engine.json

bench-feed: $(VENV)/.dev ## Measures decoding and resizing beside Pillow, OpenCV and torchvision (1 minute).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.feed --json benchmarks/results/feed.json

bench-video: $(VENV)/.dev ## Measures reading frames of videos beside PyAV, OpenCV and ffmpeg (2 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.video --json benchmarks/results/video.json

bench-select: $(VENV)/.dev ## Compares the selection with lightly-mundig, scikit-learn and numpy (10 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.select --json benchmarks/results/select.json

bench-blocks: $(VENV)/.dev ## Selects by row blocks in workers of Ray, also with one killed, beside one process (1 minute).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.row_blocks --json benchmarks/results/row_blocks.json

bench-quality: $(VENV)/.dev ## Compares detectors trained on the picks with detectors trained on random images (10 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.quality --json benchmarks/results/quality.json

bench-lightly: $(VENV)/.dev ## Compares the upload to Lightly with one call after the other (5 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.lightly_upload --json benchmarks/results/lightly_upload.json

bench-storage: $(VENV)/.dev ## Compares listing and reading a bucket with boto3 and obstore (1 minute).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.storage --json benchmarks/results/storage.json

bench-reduce: $(VENV)/.dev ## Measures what `select` takes for up to a million images, by stage (40 minutes).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.reduce --json benchmarks/results/reduce.json

bench-embedding: $(VENV)/.dev ## Measures which embedding keeps the shots of a clip together (1 hour).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.embedding --json benchmarks/results/embedding.json

bench-projection: $(VENV)/.dev ## Compares the selection by shortened features with that by whole ones (1 minute).
	@mkdir -p benchmarks/results
	@$(RUN) -W ignore -m benchmarks.projection --json benchmarks/results/projection.json

##@ On a GPU

gpu-test: $(VENV)/.runtime ## Compares the job on a GPU with the job on the CPU (at most 4 minutes).
	@$(RUN) -m demo.fetch
	@$(RUN) -W ignore -m gpu test

bench-gpu: $(VENV)/.runtime ## Measures images per second on a GPU, and what limits them (at most 3 minutes).
	@$(RUN) -m demo.fetch
	@$(RUN) -W ignore -m gpu bench

gpu-rehearse: $(VENV)/.runtime ## Runs both at toy size on the CPU, so that nothing fails for a typo on the GPU (2 minutes).
	@$(RUN) -m demo.fetch
	@$(RUN) -W ignore -m gpu rehearse

PYTHON_VERSION ?= 3.12
gpu-bundle: $(VENV)/.runtime ## Packs both into one file for a GPU machine without a network (optional: PYTHON_VERSION).
	@$(RUN) -m gpu.bundle --python-version $(PYTHON_VERSION)
