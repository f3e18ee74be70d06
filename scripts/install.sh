#!/bin/bash
# Installs the pinned packages of the job, each only if its file has the pinned hash: install.sh PYTHON
# TORCH_INDEX_URL is an index for torch and torchvision alone, such as one of wheels for another CUDA. These wheels and
# the CUDA packages that they require have no pinned hash: pip compares them only with what their index says.
# VIDEO=0 leaves out the package that decodes videos.
set -euo pipefail
python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
pins="$root/requirements/runtime.txt"
torch_pins="$root/requirements/torch.txt"

# Prints one line per package, instead of pip's hundred lines.
install() {
    "$python" -m pip --disable-pip-version-check install --progress-bar off "$@" |
        awk '/^Collecting/ {print "   " $2} /^Installing collected/ {print "   unpacking ..."} {fflush()}'
}

hashed=(--require-hashes --only-binary :all:)
# These three are published as source alone. pip would build each with the newest tools; with the pinned tools, builds
# are reproducible.
sources=(--no-binary antlr4-python3-runtime,fvcore,iopath --no-build-isolation)
echo "== Build tools"
grep -E '^(packaging|setuptools|wheel)==' "$pins" | install "${hashed[@]}" --requirement /dev/stdin

if [ -n "${TORCH_INDEX_URL:-}" ]; then
    echo "== torch and torchvision from TORCH_INDEX_URL"
    # Any other name in that index must not compete with the packages of the pins.
    mapfile -t wanted < <(grep -oE '^(torch|torchvision)==[^ ]+' "$torch_pins")
    install --index-url "$TORCH_INDEX_URL" --no-deps --only-binary :all: "${wanted[@]}" ||
        echo "pip could not install ${wanted[*]} from TORCH_INDEX_URL." >&2
    torch=$("$python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || echo none)
    if [[ $torch != *+* ]]; then
        echo "TORCH_INDEX_URL=$TORCH_INDEX_URL has no build of ${wanted[0]} for another CUDA (installed: $torch)." \
            "Use another index." >&2
        exit 1
    fi
    echo "== Packages of requirements/runtime.txt"
    install "${hashed[@]}" "${sources[@]}" --no-deps --requirement "$pins"
    echo "== CUDA packages that this torch requires (torch pins their versions)"
    install --only-binary :all: "torch==$torch"
else
    echo "== Packages of requirements/runtime.txt and torch.txt (including CUDA: the first download is about 3 GB)"
    install "${hashed[@]}" "${sources[@]}" --requirement "$pins" --requirement "$torch_pins"
fi

# The wheel is tagged for Python 3.10 only because of one compiled file, which does not work with this torch. The rest
# is pure Python that runs on 3.11. So pip installs it as if for 3.10, into this Python's folder, and the compiled file
# is deleted. Without it, detectron2 lacks rotated boxes and deformable convolutions. The model zoo's baselines for
# detection, keypoints and instance segmentation do not need them.
echo "== detectron2"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install "${hashed[@]}" --no-deps --python-version 3.10 --upgrade --target "$site" \
    --requirement "$root/requirements/detectron2.txt"
rm -f "$site"/detectron2/_C.*.so
"$python" -W ignore -c 'import detectron2.modeling'

echo "== timm (without its dependencies)"
install "${hashed[@]}" --no-deps --requirement "$root/requirements/timm.txt"

if [ "${VIDEO:-1}" != 0 ]; then
    echo "== PyAV"
    install "${hashed[@]}" --requirement "$root/requirements/video.txt"
fi
