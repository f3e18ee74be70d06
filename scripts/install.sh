#!/bin/bash
# Installs the pinned packages for one Python: install.sh PYTHON [more requirements files]
# TORCH_INDEX_URL is an index of torch wheels for another CUDA; the versions of these wheels contain a +.
set -euo pipefail
python=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
pins="$root/requirements/runtime.txt"
extra=()
for file in "$@"; do extra+=(--requirement "$file"); done

# Prints one line per package, instead of pip's hundred lines.
install() {
    "$python" -m pip --disable-pip-version-check install --progress-bar off "$@" |
        awk '/^Collecting/ {print "   " $2} /^Installing collected/ {print "   unpacking ..."} {fflush()}'
}

# fvcore, iopath and antlr4 are source packages. pip would build each with the newest tools; with the pinned tools,
# builds are reproducible.
echo "== Build tools"
grep -E '^(setuptools|wheel)==' "$pins" | install --requirement /dev/stdin

if [ -n "${TORCH_INDEX_URL:-}" ]; then export PIP_EXTRA_INDEX_URL=$TORCH_INDEX_URL; fi
echo "== Packages of requirements/runtime.txt (including CUDA: the first download is about 3 GB)"
install --no-build-isolation --requirement "$pins" ${extra[@]+"${extra[@]}"}

torch=$("$python" -c 'from importlib.metadata import version; print(version("torch"))')
if [ -n "${TORCH_INDEX_URL:-}" ] && [[ $torch != *+* ]]; then
    echo "TORCH_INDEX_URL=$TORCH_INDEX_URL has no torch $torch, so pip installed the default build. Use another index." >&2
    exit 1
fi

# The wheel is tagged for Python 3.10 only because of one compiled file, which does not work with this torch. The rest
# is pure Python that runs on 3.11. So pip installs it as if for 3.10, into this Python's folder, and the compiled file
# is deleted. Without it, detectron2 lacks rotated boxes and deformable convolutions. The model zoo's baselines for
# detection, keypoints and instance segmentation do not need them.
echo "== detectron2 (hash-checked)"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install --no-deps --require-hashes --only-binary :all: --python-version 3.10 --upgrade --target "$site" \
    --requirement "$root/requirements/detectron2.txt"
rm -f "$site"/detectron2/_C.*.so
"$python" -W ignore -c 'import detectron2.modeling'

echo "== timm (without its dependencies)"
install --no-deps --only-binary :all: --requirement "$root/requirements/timm.txt"
