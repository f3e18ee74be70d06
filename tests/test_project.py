"""The data of the project itself: one version and one licence, the same in all files that name them."""

import re
import subprocess
import tomllib

import job
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_that_of_the_package() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "job.__version__"}
    command = ["make", "--silent", "--no-print-directory", "image-labels"]
    labels = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert f"VERSION={job.__version__}" in labels


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(job.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])


def test_the_licence_is_the_same_everywhere() -> None:
    licence = PROJECT["project"]["license"]
    assert (ROOT / "LICENSE").read_text().startswith(f"SPDX-License-Identifier: {licence}\n")
    assert f'org.opencontainers.image.licenses="{licence}"' in (ROOT / "Dockerfile").read_text()
