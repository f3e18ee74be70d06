"""run.json: what others need to repeat a run and to trust its result."""

import contextlib
import datetime
import importlib.metadata
import json
import platform
from typing import TYPE_CHECKING, Any

import job
from job.parts import Provenance
from job.publish import RUN
from job.settings import Settings
from job.settings.resolve import as_json
from job.storage import Storage
from job.usage import usage

if TYPE_CHECKING:
    import torch

# detectron2's own version is always 0.6, so the version of its package is reported instead.
_PACKAGES = (
    "torch",
    "torchvision",
    "sal-detectron2",
    "lightly",
    "opencv-python-headless",
    "pillow",
    "numpy",
    "pyarrow",
)


def compose(
    settings: Settings,
    provenance: Provenance,
    *,
    run_id: str,
    device: "torch.device | None",
    inputs: dict[str, str],
    names: dict[str, dict[str, int]],
    embedding: dict[str, Any],
    selected_by: str,
    counts: dict[str, int],
    selection: dict[str, Any],
) -> dict[str, Any]:
    """Composes the content of run.json, with what the stages have taken until now.

    Args:
        settings: Settings of this run.
        provenance: What the detections were made with.
        run_id: Name of the selection.
        device: Device that the detector ran on; None if this run did not need the detector.
        inputs: Digests of the names and sizes of the images, and of the list of labelled images.
        names: How each list of names meets the images of the input: numbers of images that the list names, of names
            without an image, and of images without a name.
        embedding: How the embeddings were made.
        selected_by: ``local``, or ``platform`` for Lightly's selection.
        counts: Numbers of images and boxes.
        selection: Statistics of the picks, compared with the pool.
    """
    return {
        "coralpick": job.__version__,
        "run_id": run_id,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "settings": as_json(settings),
        "detector": json.loads(provenance.to_json()) | {"digest": provenance.digest},
        "inputs": inputs,
        "names": names,
        "embedding": embedding,
        "selected_by": selected_by,
        "counts": counts,
        "selection": selection,
        **_describe_usage(),
        "device": _device(device),
        "versions": {"python": platform.python_version()} | _find_versions(),
    }


def write(output: Storage, content: dict[str, Any]) -> None:
    """Writes run.json, with what the stages have taken until now."""
    output.write(RUN, (json.dumps(content | _describe_usage(), indent=2, ensure_ascii=False) + "\n").encode())


def _describe_usage() -> dict[str, Any]:
    """Seconds by stage, and what else each stage takes."""
    by_stage = usage.by_stage()
    resources = {
        stage: {
            "cpu_seconds": round(used.cpu_seconds, 3),
            "peak_memory_bytes": used.peak_bytes,
            "written_bytes": used.written_bytes,
        }
        for stage, used in by_stage.items()
    }
    return {"seconds": {stage: round(used.seconds, 3) for stage, used in by_stage.items()}, "resources": resources}


def read(output: Storage) -> dict[str, Any]:
    """Reads run.json of an earlier run; empty if it is missing or unreadable."""
    try:
        content = json.loads(output.read(RUN))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _find_versions() -> dict[str, str]:
    """The versions of the packages that are installed: `select` works without the detector's."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _device(device: "torch.device | None") -> str | None:
    if device is None or device.type != "cuda":
        return str(device) if device else None
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}"
