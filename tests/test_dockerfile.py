"""Checks of the Dockerfile that need no build; `make image-test` builds and runs the image."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import bake
from tests.conftest import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_builds_without_a_registry_of_frontends() -> None:
    """A `# syntax` line makes every build pull a program from a registry, which closed networks cannot reach."""
    assert not re.search(r"^#\s*syntax\s*=", DOCKERFILE, re.MULTILINE | re.IGNORECASE)


def test_what_it_copies_is_sent_to_the_build_and_nothing_else() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(sent)
    assert all((ROOT / path).exists() for path in copied)


def test_libraries_keep_their_files_below_tmp() -> None:
    folders = re.findall(r"^    (?:HOME|\w+(?:HOME|DIR|CACHE))=(\S+)", DOCKERFILE, re.MULTILINE)
    assert len(folders) == 8
    assert all(re.fullmatch("/tmp(/.cache.*)?", folder) for folder in folders)


def test_memory_of_the_gpu_does_not_fragment() -> None:
    assert "PYTORCH_ALLOC_CONF=expandable_segments:True" in DOCKERFILE


def test_no_weights_or_none_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake.main("none", str(tmp_path / "weights")) == 0
    assert list((tmp_path / "weights").iterdir()) == []
    assert bake.main("fastest.yaml", str(tmp_path / "weights")) == 64
    assert "BAKE_WEIGHTS: CORAL_MODEL='fastest.yaml' is neither a file nor" in capsys.readouterr().err


def run_install(
    folder: Path, installed: str, index: str, video: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs scripts/install.sh with a stand-in for Python that installs nothing, and returns pip's command lines."""
    python, calls = folder / "python", folder / "calls"
    python.write_text(
        f"""#!/bin/sh
        if [ -p /dev/stdin ]; then cat > /dev/null; fi  # the writer of a closed pipe would fail
        case "$*" in
        *" install "*) echo "$*" >> {calls};;
        *version*) echo {installed};;
        *purelib*) echo {folder};;
        esac"""
    )
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "TORCH_INDEX_URL": index, "VIDEO": video}
    command = [ROOT / "scripts" / "install.sh", python]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done, calls.read_text().splitlines()


def test_every_package_needs_its_hash(tmp_path: Path) -> None:
    done, calls = run_install(tmp_path, "2.14.1", index="")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 5
    assert [call for call in calls if "--require-hashes" not in call or "--only-binary :all:" not in call] == []
    assert not [call for call in calls if "index-url" in call]


def test_the_package_for_videos_can_be_left_out(tmp_path: Path) -> None:
    """So that an image has nothing under the GPL besides what Debian brings."""
    for value, count in (("0", 0), ("1", 1)):
        (tmp_path / value).mkdir()
        done, calls = run_install(tmp_path / value, "2.14.1", index="", video=value)
        assert done.returncode == 0, done.stderr
        assert sum("video.txt" in call for call in calls) == count
    assert 'VIDEO="${VIDEO}" scripts/install.sh' in DOCKERFILE


@pytest.mark.parametrize(("installed", "code"), [("2.14.1+cu126", 0), ("2.14.1", 1), ("", 1)])
def test_another_torch_index_is_for_torch_alone(tmp_path: Path, installed: str, code: int) -> None:
    """An index of other packages too could give a newer or changed one of any name."""
    done, calls = run_install(tmp_path, installed, index="https://torch.example/cu126")
    assert done.returncode == code, done.stderr
    assert ("has no build of torch==2.14.1" in done.stderr) is bool(code)
    (from_index,) = [call for call in calls if "torch.example" in call]
    assert "--index-url https://torch.example/cu126 --no-deps" in from_index
    assert from_index.split(":all: ")[1] == "torch==2.14.1 torchvision==0.29.1"
    without_hash = [call for call in calls if "--require-hashes" not in call and call != from_index]
    assert [call.split(":all: ")[1] for call in without_hash] == ([] if code else ["torch==2.14.1+cu126"])


def test_the_driver_libraries_of_googles_machines_are_found() -> None:
    """Only this variable leads to them on these machines."""
    assert re.search(r"LD_LIBRARY_PATH=/usr/local/nvidia/lib64\b", DOCKERFILE)


def test_the_base_is_pinned_by_its_digest() -> None:
    assert re.search(r"^ARG BASE_IMAGE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
