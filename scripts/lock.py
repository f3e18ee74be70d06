"""Writes the SHA-256 of its files behind each pin of requirements/: make lock.

Hashed are the files that pip may install on 64-bit Linux with Python 3.11: the wheels, for any version of glibc. Only
the packages in `SOURCES` are published without a wheel. uv reads the hashes from the package index and downloads
nothing; UV_DEFAULT_INDEX names another index.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
SOURCES = frozenset({"antlr4-python3-runtime", "fvcore", "iopath"})

# This wheel is tagged for Python 3.10: scripts/install.sh says why it works. Its hash is kept by hand.
_BY_HAND = frozenset({"detectron2.txt"})
_NEWEST_GLIBC = 60
_PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[\w.!+-]+)")


def list_files() -> list[Path]:
    """Returns the requirements files whose hashes this module writes."""
    return sorted(path for path in (ROOT / "requirements").glob("*.txt") if path.name not in _BY_HAND)


def _supported() -> set[Tag]:
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(_NEWEST_GLIBC, 4, -1)]
    platforms += [f"manylinux{year}_x86_64" for year in (2014, 2010, 1)] + ["linux_x86_64"]
    return {*cpython_tags((3, 11), ["cp311"], platforms), *compatible_tags((3, 11), "cp311", platforms)}


def read_hashes(lock: dict[str, Any]) -> dict[str, list[str]]:
    """Returns the digests of the files that may be installed, for each package of a lock file.

    Args:
        lock: The content of a pylock.toml.

    Raises:
        ValueError: If a package has no such file.
    """
    supported = _supported()
    hashes: dict[str, list[str]] = {}
    for package in lock["packages"]:
        name = canonicalize_name(package["name"])
        if name in SOURCES:
            files = [package["sdist"]]
        else:
            files = [
                wheel
                for wheel in package.get("wheels", [])
                if parse_wheel_filename(wheel["url"].rpartition("/")[2])[3] & supported
            ]
        if not files:
            raise ValueError(f"{name} has no wheel for Python 3.11 on 64-bit Linux. Choose another version.")
        hashes[name] = sorted(file["hashes"]["sha256"] for file in files)
    return hashes


def add_hashes(text: str, hashes: dict[str, list[str]]) -> str:
    """Returns a requirements file with one line per pin: the pin and the hashes of its files."""
    lines = []
    for line in text.splitlines():
        pin = _PIN.match(line)
        if pin:
            digests = hashes[canonicalize_name(pin["name"])]
            line = " ".join([pin.group(), *(f"--hash=sha256:{digest}" for digest in digests)])
        lines.append(line)
    return "\n".join(lines) + "\n"


def _lock(path: Path) -> dict[str, Any]:
    """Asks uv for the files of all pins of a requirements file."""
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.exists() else shutil.which("uv")
    if not uv:
        sys.exit("uv was not found: run `make setup`.")
    with tempfile.TemporaryDirectory() as folder:
        pins, lock = Path(folder) / "pins.txt", Path(folder) / "pylock.toml"
        matches = map(_PIN.match, path.read_text().splitlines())
        pins.write_text("\n".join(pin.group() for pin in matches if pin))
        command = [uv, "pip", "compile", "--quiet", "--no-config", "--no-deps", "--python-version", "3.11"]
        command += ["--python-platform", "x86_64-unknown-linux-gnu", "--format", "pylock.toml"]
        subprocess.run([*command, "--output-file", str(lock), str(pins)], check=True)
        return tomllib.loads(lock.read_text())


def main() -> None:
    """Rewrites the files."""
    for path in list_files():
        path.write_text(add_hashes(path.read_text(), read_hashes(_lock(path))))
        print(f"{path.relative_to(ROOT)} has the hashes of its packages.")


if __name__ == "__main__":
    main()
