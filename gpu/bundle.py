"""Packs the checks, the benchmark and the packages that they need into one file, for a GPU machine without a network.

`python -m gpu.bundle --python-version 3.12 --output DIR` writes `coralpick-gpu.pyz`. There,

    python3 coralpick-gpu.pyz test

unpacks it beside itself and runs `python3 -m gpu test`. The machine brings Python of that version with torch 2.9 or
newer, torchvision, numpy, OpenCV, Pillow and pyarrow. All other packages come along in the versions of
requirements/runtime.txt, whose hashes are of the files for Python 3.11 alone and are not compared.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from demo import fetch

ROOT = Path(__file__).resolve().parent.parent
FILE = "coralpick-gpu.pyz"
MAX_BYTES = 60 << 20

_ON_THE_MACHINE = {
    "numpy", "opencv-python-headless", "pillow", "pyarrow",
    # what torch itself requires
    "filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy", "typing-extensions",
}  # fmt: skip
# Only local folders are read and written, on one GPU, and nothing is uploaded or drawn, so these are never imported.
_NOT_IMPORTED = {
    "boto3", "botocore", "jmespath", "obstore", "s3transfer",
    "aiohappyeyeballs", "aiohttp", "aiosignal", "frozenlist", "multidict", "propcache", "yarl",
    "contourpy", "cycler", "fonttools", "hydra-core", "kiwisolver", "matplotlib", "pyparsing",
    "pytorch-lightning", "torchmetrics", "wheel",
    # Ray, which is used with several GPUs only, and what it requires
    "ray", "aiohttp-cors", "cffi", "colorful", "cryptography", "distlib", "google-api-core", "google-auth",
    "googleapis-common-protos", "grpcio", "jsonschema", "jsonschema-specifications", "msgpack", "opencensus",
    "opencensus-context", "opentelemetry-api", "opentelemetry-exporter-prometheus", "opentelemetry-proto",
    "opentelemetry-sdk", "opentelemetry-semantic-conventions", "platformdirs", "prometheus-client", "proto-plus",
    "protobuf", "py-spy", "pyasn1", "pyasn1-modules", "pycparser", "python-discovery", "referencing", "rpds-py",
    "smart-open", "virtualenv", "wrapt",
}  # fmt: skip
_FROM_SOURCE = {"antlr4-python3-runtime", "fvcore", "iopath"}  # pure Python, published without a wheel
_CODE = ("job", "gpu", "demo", "benchmarks", "entrypoint.py", "requirements/runtime.txt", "LICENSE")
_NEWEST_GLIBC = 39  # Ubuntu 24.04
# Compiled for another torch, or for notebooks and command lines.
_USELESS = (
    "detectron2/_C.*",
    "detectron2/projects",
    "plotly/labextension",
    "**/tests",
    "bin",
    "etc",
    "include",
    "share",
)

_MAIN = '''"""Unpacks this file beside itself, and runs the checks: python3 coralpick-gpu.pyz --help"""
import os
import shutil
import sys
import zipfile

archive = os.path.abspath(sys.argv[0])
folder = os.path.join(os.path.dirname(archive), "coralpick-gpu")
shutil.rmtree(folder, ignore_errors=True)  # it may be of an earlier version
with zipfile.ZipFile(archive) as packed:
    packed.extractall(folder)
paths = [folder, os.path.join(folder, "site")]
os.environ["PYTHONPATH"] = os.pathsep.join(paths + [os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
os.environ["PYTHONUNBUFFERED"] = "1"
# Not with -m, which prefers a package of that name in the working directory.
os.execv(sys.executable, [sys.executable, "-W", "ignore", os.path.join(folder, "run.py"), *sys.argv[1:]])
'''


_RUN = """import sys

from gpu.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
"""


def list_requirements() -> list[str]:
    """Returns the pinned requirements that come along."""
    lines = (ROOT / "requirements" / "runtime.txt").read_text().splitlines()
    pins = [line.split()[0] for line in lines if "==" in line]
    return [pin for pin in pins if pin.split("==")[0] not in _ON_THE_MACHINE | _NOT_IMPORTED]


def install(site: Path, python_version: str, temporary: Path) -> None:
    """Installs the packages into a folder, for another version of Python.

    Raises:
        subprocess.CalledProcessError: If a package has no wheel for that version.
    """
    wheels, pins = temporary / "wheels", list_requirements()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    sources = [pin for pin in pins if pin.split("==")[0] in _FROM_SOURCE]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), *sources], check=True
    )
    into = [*pip, "install", "--target", str(site), "--no-deps", "--no-compile", "--only-binary", ":all:"]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in range(_NEWEST_GLIBC, 16, -1)]
    platforms += [f"--platform=manylinux{year}_x86_64" for year in (2014, 2010, 1)]
    version = ["--implementation=cp", f"--python-version={python_version}"]
    others = [pin for pin in pins if pin not in sources]
    built = [str(path) for path in wheels.glob("*.whl")]
    subprocess.run([*into, *version, *platforms, *others, *built], check=True)
    detectron2 = ["--require-hashes", "--python-version=3.10", "--upgrade"]  # see scripts/install.sh
    subprocess.run([*into, *detectron2, "--requirement", str(ROOT / "requirements" / "detectron2.txt")], check=True)
    for pattern in _USELESS:
        for path in list(site.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def pack(output: Path, python_version: str) -> Path:
    """Writes the file, and returns its path.

    Raises:
        RuntimeError: If it is larger than it may be.
    """
    fetch.fetch()
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        install(site, python_version, Path(folder))
        files = [(path, f"site/{path.relative_to(site)}") for path in sorted(site.rglob("*"))]
        for name in _CODE:
            paths = sorted((ROOT / name).rglob("*")) if (ROOT / name).is_dir() else [ROOT / name]
            files += [(path, str(path.relative_to(ROOT))) for path in paths if "output" not in path.parts]
        demo_files = [fetch.WEIGHTS, *sorted(fetch.FRAMES.glob("*.jpg"))[::2]]  # half of the frames are enough
        files += [(path, str(path.relative_to(ROOT))) for path in demo_files]
        with zipfile.ZipFile(output / FILE, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__main__.py", _MAIN)
            archive.writestr("run.py", _RUN)
            for path, name in files:
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, name)
    size = (output / FILE).stat().st_size
    if size > MAX_BYTES:
        raise RuntimeError(f"{output / FILE} has {size / 2**20:.0f} MiB, more than {MAX_BYTES >> 20}.")
    return output / FILE


def main() -> None:
    """Packs the file, and says how to run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python-version", default="3.12", help="version of Python on the GPU machine (default 3.12)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    path = pack(arguments.output, arguments.python_version)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB. Next, on the GPU machine: python3 {FILE} test")


if __name__ == "__main__":
    main()
