import ast
import sys

from gpu import bundle
from tests.conftest import ROOT


def test_requirements_are_those_of_the_job_without_what_the_machine_has() -> None:
    names = {pin.split("==")[0] for pin in bundle.list_requirements()}
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
