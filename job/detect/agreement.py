"""What all shards of a run do alike, whatever their machines: the precision, and the batch size on GPUs.

Each machine would choose for itself. But parts of two precisions do not go together, and batches of another size change
the last digits of results. So the first shard writes its choices beside the listings, and the others follow.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch

from job import parts
from job.detect import gpu
from job.detect.model import choose_precision
from job.errors import DamagedFileError, ServiceUnavailable, TryAgain
from job.parts import FOLDER, checked
from job.parts.checked import DamagedTableError
from job.settings import Settings
from job.settings.schema import Precision
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
PRECISION_KEY = FOLDER + "precision.json"
BATCH_SIZE_KEY = FOLDER + "batch-size.json"
# Shards that find no choice all write theirs; the last one counts, which is there after this time.
_SETTLING_SECONDS = {True: 1.0, False: 0.1}  # in a bucket, in a folder


def agree_on_precision(settings: Settings, output: Storage) -> Precision:
    """Returns the precision of the run: that of the settings, or of the first shard, or else of this machine.

    Raises:
        ServiceUnavailable: If this machine cannot compute in the precision of the other shards. Another one may.
        SettingsError: If a part was written by a version of the job with another schema.
    """
    if settings.precision != "auto":
        return settings.precision
    device, _ = gpu.choose(settings)
    own = choose_precision(settings, device)
    agreed = _read_precision(output)
    if agreed is None:
        choice = _find_in_parts(output) or own
        _write(output, PRECISION_KEY, {"precision": choice})
        agreed = _read_precision(output) or choice
    if agreed == own:
        return own
    if device.type != "cuda" and agreed != "fp32":
        raise ServiceUnavailable(
            f"The other shards of this run compute in {agreed} on GPUs, and this machine has only its CPU: give it a "
            "GPU, or set CORAL_PRECISION=fp32 and a new CORAL_OUTPUT for all shards."
        )
    logger.info("Computing in %s, as the first shard of this run did; this machine alone would choose %s.", agreed, own)
    return agreed


def confirm_precision(settings: Settings, output: Storage, precision: Precision) -> None:
    """Looks again, after the model was loaded, whether another shard has overwritten the choice since.

    Args:
        settings: The settings.
        output: Folder with the parts.
        precision: What was agreed on.

    Raises:
        TryAgain: If it has. A new start follows it.
    """
    if settings.precision == "auto" and (agreed := _read_precision(output)) not in (None, precision):
        raise TryAgain(
            f"Another shard started at the same time and computes in {agreed}, this one in {precision}: start this one "
            "again, and it follows."
        )


def agree_on_batch_size(output: Storage, device: torch.device, measure: Callable[[], int]) -> int:
    """Returns the batch size of the run: that of the first shard on a GPU, or else the one that fits this device.

    Batches that do not fit into a smaller GPU are halved there. A CPU neither leads nor follows: more than one image
    at a time is no faster, and its last digits differ in any case.

    Args:
        output: Folder with the parts.
        device: The device of this shard.
        measure: Returns the batch size that fits it.
    """
    if device.type != "cuda":
        return measure()
    agreed = _read_batch_size(output)
    if agreed is not None:
        logger.info("Batch size %d, as in the first shard of this run. CORAL_BATCH_SIZE sets another one.", agreed)
        return agreed
    own = measure()
    _write(output, BATCH_SIZE_KEY, {"batch_size": own})
    return _read_batch_size(output) or own


def _write(output: Storage, key: str, choice: dict[str, Any]) -> None:
    output.write(key, checked.dump_json(choice))
    time.sleep(_SETTLING_SECONDS["://" in output.uri])


def _read_precision(output: Storage) -> Precision | None:
    choice = _read(output, PRECISION_KEY, "precision")
    return next((precision for precision in _PRECISIONS if precision == choice), None)


def _read_batch_size(output: Storage) -> int | None:
    choice = _read(output, BATCH_SIZE_KEY, "batch_size")
    return choice if type(choice) is int and choice > 0 else None


def _read(output: Storage, key: str, name: str) -> Any:
    if output.stat(key) is None:
        return None
    try:
        return checked.load_json(read_required(output, key))[name]
    except (DamagedTableError, KeyError, TypeError):  # the choice is made again
        return None


def _find_in_parts(output: Storage) -> Precision | None:
    """Finds the precision of parts that are there, such as those of a run that had CORAL_PRECISION set."""
    for entry in parts.list_files(output):
        try:
            (part,) = parts.read(output, ["key"], names={entry.key})
        except DamagedFileError:  # it is set aside later, when the finished images are looked for
            continue
        return next((precision for precision in _PRECISIONS if precision == part.provenance.precision), None)
    return None
