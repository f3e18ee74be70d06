"""`make image` and `make image-scan` with stand-ins for docker, grype and trivy; `make image-test` builds the image."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONTAINERD = "[[driver-type io.containerd.snapshotter.v1]]"
CLASSIC = "[[Backing Filesystem extfs] [Supports d_type true]]"


def make(*arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Runs make with a folder of stand-ins as the first of PATH, and no grype or trivy of this machine."""
    folders = [folder for folder in os.environ["PATH"].split(":") if not list(Path(folder).glob("grype*"))]
    environment = os.environ | {"PATH": f"{path}:{':'.join(folders)}"}
    command = ["make", "--silent", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def stand_in(folder: Path, name: str, script: str) -> None:
    """Writes a program that prints its arguments first."""
    program = folder / name
    program.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> {folder}/calls\n{script}\n')
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("buildx", "store", "attest", "reason"),
    [
        (0, CONTAINERD, "", ""),
        (0, CONTAINERD, "0", "ATTEST=0"),
        (1, CONTAINERD, "", "docker buildx is missing"),
        (0, CLASSIC, "", "this engine does not use Docker's containerd image store"),
    ],
)
def test_an_image_has_an_sbom_and_its_provenance_where_the_engine_keeps_them(
    tmp_path: Path, buildx: int, store: str, attest: str, reason: str
) -> None:
    stand_in(tmp_path, "docker", f'case "$1" in buildx) exit {buildx};; info) echo "{store}";; esac')
    done = make("image", f"ATTEST={attest}", "BASE_IMAGE=debian@sha256:1", "IMAGE=acme/coralpick", path=tmp_path)
    assert done.returncode == 0, done.stderr
    (build,) = [call for call in (tmp_path / "calls").read_text().splitlines() if call.startswith("docker build ")]
    assert ("--sbom=true --provenance=mode=max" in build) is not bool(reason)
    assert (f"no SBOM and no provenance ({reason})" in done.stdout) is bool(reason)
    assert "--platform linux/amd64 --tag acme/coralpick" in build
    assert "--build-arg BASE_IMAGE=debian@sha256:1" in build
    assert re.search(r"--build-arg CREATED=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) ", build)


def test_a_build_that_fails_fails_the_target(tmp_path: Path) -> None:
    stand_in(tmp_path, "docker", 'test "$1" != build')
    done = make("image", path=tmp_path)
    assert done.returncode != 0
    assert "Next:" not in done.stdout


@pytest.mark.parametrize(
    ("scanner", "call"),
    [
        ("grype", "grype docker:acme/coralpick --only-fixed --fail-on high"),
        ("trivy", "trivy image --ignore-unfixed --severity HIGH,CRITICAL --exit-code 1 acme/coralpick"),
    ],
)
@pytest.mark.parametrize("code", [0, 1])
def test_a_scan_fails_if_it_finds_something(tmp_path: Path, scanner: str, call: str, code: int) -> None:
    stand_in(tmp_path, scanner, f"exit {code}")
    done = make("image-scan", "IMAGE=acme/coralpick", path=tmp_path)
    assert (done.returncode != 0) is bool(code)
    assert (tmp_path / "calls").read_text().strip() == call


def test_without_a_scanner_it_says_what_to_install(tmp_path: Path) -> None:
    done = make("image-scan", path=tmp_path)
    assert done.returncode != 0
    assert "Neither grype nor trivy was found: install one of them" in done.stderr
