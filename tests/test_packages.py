"""A package that is not installed is one sentence, which says what to install or what to do without it."""

import pytest

from job.packages import explain_missing_package


@pytest.mark.parametrize(
    ("module", "fix"),
    [
        ("av.container", "pip install 'coralpick[video]'`, or set CORAL_FRAMES=none"),
        ("ray", "pip install 'coralpick[ray]'`, or set CORAL_ENGINE=none"),
        ("lightly.openapi_generated", "pip install 'coralpick[lightly]'`, or remove the token"),
        ("torch", "`scripts/install.sh`"),
        ("boto3", "pip install 'coralpick[job]'`."),
    ],
)
def test_what_to_do_is_named(module: str, fix: str) -> None:
    explained = explain_missing_package(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert explained is not None and explained.exit_code == 69
    assert fix in str(explained)


def test_other_errors_and_own_modules_are_no_missing_packages() -> None:
    assert explain_missing_package(ModuleNotFoundError("No module named 'job.x'", name="job.x")) is None
    assert explain_missing_package(ImportError("cannot import name 'x'", name="torch")) is None
