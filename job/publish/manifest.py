"""run.json: what someone else needs to repeat a run and to trust its result."""

import importlib.metadata
import json
import platform
from typing import TYPE_CHECKING, Any

import job
from job.parts import Provenance
from job.settings import Settings
from job.settings.resolve import as_json
from job.storage import Storage

if TYPE_CHECKING:
    import torch

# detectron2 calls itself 0.6 whatever is in it; the package it was installed from tells more.
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


def write(
    output: Storage,
    settings: Settings,
    provenance: Provenance,
    *,
    run_id: str,
    device: "torch.device | None",
    inputs: dict[str, str],
    embedding: dict[str, Any],
    selected_by: str,
    counts: dict[str, int],
    selection: dict[str, Any],
    timings: dict[str, float],
) -> dict[str, Any]:
    """Writes run.json, and returns its content.

    Args:
        output: Where to.
        settings: Of this run.
        provenance: What the detections were made with.
        run_id: Names the selection.
        device: Where the detector ran; None when this run did not need it.
        inputs: Digests of the names and sizes of the images, and of the list of labelled ones.
        embedding: How the embeddings were made.
        selected_by: ``local``, or ``platform`` for Lightly's.
        counts: Of images.
        selection: What the picks are like, beside the pool.
        timings: Seconds by stage.
    """
    content = {
        "coralpick": job.__version__,
        "run_id": run_id,
        "settings": as_json(settings),
        "detector": json.loads(provenance.to_json()) | {"digest": provenance.digest},
        "inputs": inputs,
        "embedding": embedding,
        "selected_by": selected_by,
        "counts": counts,
        "selection": selection,
        "seconds": {stage: round(value, 3) for stage, value in timings.items()},
        "device": _device(device),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    output.write("run.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return content


def read(output: Storage) -> dict[str, Any]:
    """The run.json of an earlier run; empty where there is none that can be read."""
    try:
        content = json.loads(output.read("run.json"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _device(device: "torch.device | None") -> str | None:
    if device is None or device.type != "cuda":
        return str(device) if device else None
    import torch

    return f"{device}: {torch.cuda.get_device_name(device)}"
