"""The Dockerfile, as far as it can be looked at without building it; `make image-test` builds and runs it."""

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
    """A `# syntax` line makes every build pull a program from a registry, which closed networks do not reach."""
    assert not re.search(r"^#\s*syntax\s*=", DOCKERFILE, re.MULTILINE | re.IGNORECASE)


def test_what_it_copies_is_sent_to_the_build_and_nothing_else() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(sent)
    assert all((ROOT / each).exists() for each in copied)


def test_what_libraries_keep_goes_below_tmp() -> None:
    places = re.findall(r"^    (?:HOME|\w+(?:HOME|DIR|CACHE))=(\S+)", DOCKERFILE, re.MULTILINE)
    assert len(places) == 8
    assert all(re.fullmatch("/tmp(/.cache.*)?", place) for place in places)


def test_no_weights_or_none_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake.main("none", str(tmp_path / "weights")) == 0
    assert list((tmp_path / "weights").iterdir()) == []
    assert bake.main("fastest.yaml", str(tmp_path / "weights")) == 64
    assert "BAKE_WEIGHTS: CORAL_MODEL='fastest.yaml' is neither a file nor" in capsys.readouterr().err


@pytest.mark.parametrize(("installed", "code"), [("2.14.1+cu126", 0), ("2.14.1", 1)])
def test_another_index_of_torch_is_used_or_the_build_ends(tmp_path: Path, installed: str, code: int) -> None:
    """Against a stand-in for Python that installs nothing: pip itself takes the usual torch without a word."""
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
        if [ -p /dev/stdin ]; then cat > /dev/null; fi  # what is piped in must not meet a closed pipe
        case "$*" in
        *requirements/runtime.txt*) test "$PIP_EXTRA_INDEX_URL" = https://torch.example/cu126 || exit 9;;
        *version*) echo {installed};;
        *purelib*) echo {tmp_path};;
        esac"""
    )
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "TORCH_INDEX_URL": "https://torch.example/cu126"}
    command = [ROOT / "scripts" / "install.sh", python]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("has no torch 2.14.1" in done.stderr) is bool(code)


def test_the_drivers_libraries_are_found_where_google_puts_them() -> None:
    """There, nothing but this variable leads to them."""
    assert re.search(r"LD_LIBRARY_PATH=/usr/local/nvidia/lib64\b", DOCKERFILE)
