"""The pins: each has hashes, no dependency is missing, and the script that writes the hashes picks the right files."""

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import lock
from tests.conftest import ROOT

FOLDER = ROOT / "requirements"
PIN = re.compile(r"([\w.-]+)==([\w.]+)((?: --hash=sha256:[0-9a-f]{64})+)")


def pins(*names: str) -> dict[str, tuple[str, str]]:
    """Version and hashes of each package of some files."""
    lines = "".join((FOLDER / name).read_text() for name in names).splitlines()
    matches = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(match[1]): (match[2], match[3]) for match in matches if match}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.name)
def test_every_line_is_a_pin_with_hashes(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []


def test_a_package_of_two_files_is_the_same_in_both() -> None:
    """But for LightlyStudio, whose environment is its own."""
    job, tools = pins("runtime.txt", "torch.txt", "video.txt"), pins("dev.txt")
    assert not set(job) & set(tools)
    studio = pins("studio.txt", "studio-dev.txt")
    for name in set(studio) & set(job | tools):
        ours = (job | tools)[name]
        assert studio[name] == ours or studio[name][0] != ours[0], name


@pytest.mark.parametrize(
    "names", [("runtime.txt", "torch.txt", "video.txt"), ("runtime.txt", "torch.txt", "video.txt", "dev.txt")]
)
def test_no_dependency_is_missing(names: tuple[str, ...]) -> None:
    """By the metadata of the installed packages. pip would refuse the missing one, as it has no hash."""
    pinned = pins(*names)
    wanted = [(name, frozenset[str]()) for name in pinned]
    seen = set(wanted)
    while wanted:
        name, extras = wanted.pop()
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # newer in the file than in this environment: `make setup` installs it
            continue
        for line in lines:
            requirement = Requirement(line)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            dependency = canonicalize_name(requirement.name)
            assert dependency in pinned, f"{name} requires {line}"
            if (found := (dependency, frozenset(requirement.extras))) not in seen:
                seen.add(found)
                wanted.append(found)


def package(name: str, *files: str) -> dict[str, Any]:
    """A package of a lock file, whose files have their own names as digests."""
    entries: dict[str, Any] = {}
    for file in files:
        entry = {"url": f"https://index.example/{file}", "hashes": {"sha256": file}}
        if file.endswith(".whl"):
            entries.setdefault("wheels", []).append(entry)
        else:
            entries["sdist"] = entry
    return {"name": name} | entries


def test_only_files_that_pip_may_install_have_a_hash() -> None:
    compiled = package(
        "numpy",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "numpy-2.4.6-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl",
        "numpy-2.4.6-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl",
        "numpy-2.4.6-cp311-cp311-musllinux_1_2_x86_64.whl",
        "numpy-2.4.6-cp311-cp311-win_amd64.whl",
        "numpy-2.4.6-cp311-cp311-macosx_14_0_arm64.whl",
        "numpy-2.4.6.tar.gz",
    )
    stable = package(
        "simplejpeg",
        "simplejpeg-1.9.0-cp39-abi3-manylinux2014_x86_64.whl",
        "simplejpeg-1.9.0-py3-none-any.whl",
        "simplejpeg-1.9.0-cp314-abi3-manylinux2014_x86_64.whl",
    )
    source = package("fvcore", "fvcore-0.1.tar.gz")
    hashes = lock.read_hashes({"packages": [compiled, stable, source]})
    assert hashes == {
        "numpy": ["numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"],
        "simplejpeg": ["simplejpeg-1.9.0-cp39-abi3-manylinux2014_x86_64.whl", "simplejpeg-1.9.0-py3-none-any.whl"],
        "fvcore": ["fvcore-0.1.tar.gz"],
    }


def test_a_package_without_a_wheel_is_refused() -> None:
    only_source = package("requests", "requests-2.34.2.tar.gz")
    with pytest.raises(ValueError, match="requests has no wheel for Python 3"):
        lock.read_hashes({"packages": [only_source]})


def test_hashes_replace_those_of_the_last_version_and_comments_stay() -> None:
    text = "# A comment with a==1.\na-b==1.0 --hash=sha256:old\n\nTyping_extensions==4\n"
    assert lock.add_hashes(text, {"a-b": ["1", "2"], "typing-extensions": ["3"]}).splitlines() == [
        "# A comment with a==1.",
        "a-b==1.0 --hash=sha256:1 --hash=sha256:2",
        "",
        "Typing_extensions==4 --hash=sha256:3",
    ]
