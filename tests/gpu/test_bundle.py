import ast
import subprocess
import sys
import zipfile
from pathlib import Path

from gpu import bundle
from tests.conftest import ROOT


def test_requirements_are_those_of_the_job_without_what_the_machine_has() -> None:
    names = {pin.split("==")[0] for pin in bundle.list_requirements()}
    assert not [pin for pin in bundle.list_requirements() if "hash" in pin]
    assert {"fvcore", "lightly", "omegaconf", "plotly", "pydantic-core"} <= names
    assert not names & {"torch", "torchvision", "numpy", "boto3"}
    pins = (ROOT / "requirements" / "runtime.txt").read_text()
    left_out = bundle._ON_THE_MACHINE | bundle._NOT_IMPORTED
    assert all(f"\n{name}==" in pins for name in left_out if name not in {"jinja2"}), "a name that is no requirement"


def test_the_start_of_the_file_needs_python_alone() -> None:
    imports = {
        alias.name for node in ast.walk(ast.parse(bundle._MAIN)) if isinstance(node, ast.Import) for alias in node.names
    }
    assert imports <= sys.stdlib_module_names


def test_what_runs_is_what_the_file_holds_wherever_it_is_started(tmp_path: Path) -> None:
    """A checkout in the working directory has packages of the same names."""
    archive = tmp_path / "brought" / bundle.FILE
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", bundle._MAIN)
        file.writestr("run.py", bundle._RUN)
        file.writestr("gpu/__main__.py", "import sys\n\n\ndef main() -> int:\n    print(*sys.argv[1:])\n    return 3\n")
    checkout = tmp_path / "checkout"
    (checkout / "gpu").mkdir(parents=True)
    (checkout / "gpu" / "__main__.py").write_text("raise SystemExit('another package')\n")
    command = [sys.executable, str(archive), "test", "--only", "machine"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "test --only machine\n", "")
