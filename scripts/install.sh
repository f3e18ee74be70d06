#!/bin/bash
# Installs the pinned packages for one Python: install.sh PYTHON [more files of requirements]
# TORCH_INDEX_URL names an index of torch wheels for another CUDA, which are told apart by a + in their version.
set -euo pipefail
python=$1
shift
here=$(cd "$(dirname "$0")/.." && pwd)
pins="$here/requirements/runtime.txt"
extra=()
for file in "$@"; do extra+=(--requirement "$file"); done

# One line for each package, of the hundred that pip prints.
install() {
    "$python" -m pip --disable-pip-version-check install --progress-bar off "$@" |
        awk '/^Collecting/ {print "   " $2} /^Installing collected/ {print "   unpacking ..."} {fflush()}'
}

# fvcore, iopath and antlr4 come as source. Built with the pinned tools, rather than with the newest ones that pip would
# fetch for each, they build the same way on every day.
echo "== Build tools"
grep -E '^(setuptools|wheel)==' "$pins" | install --requirement /dev/stdin

if [ -n "${TORCH_INDEX_URL:-}" ]; then export PIP_EXTRA_INDEX_URL=$TORCH_INDEX_URL; fi
echo "== Packages of requirements/runtime.txt (torch brings CUDA: about 3 GB to download the first time)"
install --no-build-isolation --requirement "$pins" ${extra[@]+"${extra[@]}"}

torch=$("$python" -c 'from importlib.metadata import version; print(version("torch"))')
if [ -n "${TORCH_INDEX_URL:-}" ] && [[ $torch != *+* ]]; then
    echo "TORCH_INDEX_URL=$TORCH_INDEX_URL has no torch $torch, so the usual one was installed. Look for an index that has it." >&2
    exit 1
fi

# The wheel is tagged for Python 3.10 only because of one compiled file, which is of no use beside this torch. Everything
# else in it is plain Python that runs on 3.11. So pip is told to take it as if for 3.10, into this Python's own folder,
# and the compiled file is removed. What detectron2 then lacks are rotated boxes and deformable convolutions, which the
# zoo's baselines for detection, keypoints and instance segmentation do without.
echo "== detectron2, checked by its hash"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
install --no-deps --require-hashes --only-binary :all: --python-version 3.10 --upgrade --target "$site" \
    --requirement "$here/requirements/detectron2.txt"
rm -f "$site"/detectron2/_C.*.so
"$python" -W ignore -c 'import detectron2.modeling'
