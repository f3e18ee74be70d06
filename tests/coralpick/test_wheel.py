"""The wheel in an environment that has only the packages it declares: without torch and detectron2."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from job import __version__
from tests.conftest import ROOT, clean_environment

SOURCES = ("coralpick", "job", "pyproject.toml", "README.md", "LICENSE")


def find_requirements(requirements: list[str], extra: str = "") -> dict[str, metadata.Distribution]:
    """The installed distributions that meet requirements, with what they require in turn.

    Raises:
        AssertionError: If an installed version does not meet its requirement.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [(Requirement(text), extra) for text in requirements]
    while waiting:
        requirement, its_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": its_extra}):
            continue
        installed = metadata.distribution(requirement.name)
        if its_extra == extra:
            assert requirement.specifier.contains(installed.version), (requirement, installed.version)
        if requirement.name not in found:
            found[requirement.name] = installed
            # Extras of dependencies are not followed: none is declared.
            waiting += [(Requirement(text), "none") for text in installed.requires or []]
    return found


class Installed:
    """A virtual environment with the wheel and links to the packages that it declares."""

    def __init__(self, folder: Path, wheel: Path, extra: str = "") -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        install = ["install", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet", str(wheel)]
        subprocess.run([sys.executable, "-m", "pip", "--python", self.python, *install], check=True)
        site = next(folder.glob("lib/python*/site-packages"))
        (self.metadata,) = (item for item in metadata.distributions(path=[str(site)]) if item.name == "coralpick")
        for package in find_requirements(self.metadata.requires or [], extra).values():
            for first in {path.parts[0] for path in package.files or [] if path.parts[0] not in ("..", "__pycache__")}:
                if not (site / first).exists():
                    (site / first).symlink_to(Path(str(package.locate_file(first))).resolve())

    def run(self, *command: str | Path, **variables: object) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment in a folder that is not the checkout."""
        environment = clean_environment(**variables)
        environment.pop("PYTHONPATH", None)
        program = self.python.parent / command[0]
        return subprocess.run(
            [program, *command[1:]], cwd=self.python.parent, env=environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip wheel .` builds, from a copy of the sources, with the pinned setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def library(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("library"), wheel)


def test_the_wheel_holds_every_file_of_both_packages_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"coralpick-{__version__}-py3-none-any.whl"
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for name in ("coralpick", "job") for path in (ROOT / name).rglob("*") if path.is_file())
    assert inside == {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_library_loads_fast_and_without_torch(library: Installed) -> None:
    code = """
import time
begin = time.process_time()
from coralpick import scores, select
seconds = time.process_time() - begin
import sys, numpy
assert select(numpy.eye(4), None, 2, strategy="coreset").indices.tolist() == [0, 1]
print(seconds, *sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = library.run("python", "-c", code)
    assert done.returncode == 0, done.stderr
    seconds, *modules = done.stdout.split()
    assert float(seconds) < 0.5
    assert {"numpy", "pyarrow", "job"} <= set(modules)
    assert set(modules).isdisjoint({"torch", "click", "tqdm", "pythonjsonlogger", "boto3", "requests", "pandas"})


def test_the_command_has_help_and_a_version(library: Installed) -> None:
    done = library.run("coralpick", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: coralpick [OPTIONS] COMMAND")
    assert all(f"  {name} " in done.stdout for name in ("run", "predict", "select", "check"))
    assert library.run("coralpick", "--version").stdout == f"coralpick, version {__version__}\n"


def test_a_missing_package_is_one_sentence(library: Installed, tmp_path: Path) -> None:
    done = library.run("coralpick", "select", CORAL_INPUT=tmp_path, CORAL_OUTPUT=tmp_path / "out")
    assert done.returncode == 69
    assert "is not installed: run `pip install 'coralpick[job]'`." in done.stderr
    assert "Traceback" not in done.stderr


def test_select_needs_no_detector_and_run_says_what_is_missing(wheel: Path, few_frames: Path, tmp_path: Path) -> None:
    place = Installed(tmp_path / "venv", wheel, "job")
    names = sorted(str(path.relative_to(few_frames)) for path in few_frames.rglob("*.jpg"))
    rows = "".join(f"{name},{number % 3},{number / 7:.3f},1\n" for number, name in enumerate(names))
    (tmp_path / "embeddings.csv").write_text("file_name,x,y,z\n" + rows)
    options = {"CORAL_INPUT": few_frames, "CORAL_N_SAMPLES": 3}
    own = {"CORAL_PREDICTIONS": "none", "CORAL_EMBEDDING": tmp_path / "embeddings.csv", "CORAL_STRATEGY": "coreset"}
    done = place.run("coralpick", "select", CORAL_OUTPUT=tmp_path / "picks", **options, **own)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "picks" / "selected.txt").read_text().splitlines()) == 3
    done = place.run("coralpick", "run", CORAL_OUTPUT=tmp_path / "out", **options)
    assert done.returncode == 69
    assert "The detector needs the package" in done.stderr
    assert "scripts/install.sh" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_extras_are_installed_versions_of_the_pins() -> None:
    """Every package of an extra is pinned for the job, in a version that the extra accepts."""
    texts = [(ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "torch.txt", "video.txt")]
    pins = dict(line.split()[0].split("==") for text in texts for line in text.splitlines() if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    for requirement in map(Requirement, declared):
        if requirement.name != "coralpick":
            assert requirement.specifier.contains(pins[requirement.name]), requirement
