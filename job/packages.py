"""What to do about a package that is not installed: `pip install coralpick` brings only those of the library."""

from job.errors import ServiceUnavailable

_DETECTOR = ("detectron2", "fvcore", "iopath", "torch", "torchvision")
_OWN = ("coralpick", "job")


def explain_missing_package(error: BaseException) -> ServiceUnavailable | None:
    """Explains the error of an import whose package is not installed; None for any other error."""
    if type(error) is not ModuleNotFoundError or error.name is None:
        return None
    package = error.name.partition(".")[0]
    if package in _OWN:
        return None
    if package in _DETECTOR:
        return ServiceUnavailable(
            f"The detector needs the package {package}, which is not installed: use the container image, or run "
            "`scripts/install.sh` of the repository with the path of this Python. `select` needs no detector."
        )
    if package == "lightly":
        return ServiceUnavailable(
            "The upload needs the package lightly, which is not installed: run `pip install 'coralpick[lightly]'`, or "
            "remove the token."
        )
    if package == "av":
        return ServiceUnavailable(
            "CORAL_INPUT holds videos, which need the package av, which is not installed: run "
            "`pip install 'coralpick[video]'`, or set CORAL_FRAMES=none to skip them."
        )
    if package == "ray":
        return ServiceUnavailable(
            "Several GPUs need the package ray, which is not installed: run `pip install 'coralpick[ray]'`, or set "
            "CORAL_ENGINE=none to use one GPU."
        )
    return ServiceUnavailable(
        f"The job needs the package {package}, which is not installed: run `pip install 'coralpick[job]'`."
    )
