"""The precision that all shards of a run compute in, whatever their machines.

With CORAL_PRECISION=auto, each machine would choose for itself, and parts of two precisions do not go together. So the
first shard writes its choice beside the listings, and the others follow.
"""

import json
import logging
import time

from job.detect import gpu
from job.detect.model import choose_precision
from job.errors import ServiceUnavailable
from job.parts import FOLDER
from job.settings import Settings
from job.settings.schema import Precision
from job.storage import Storage, read_required

logger = logging.getLogger(__name__)

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
KEY = FOLDER + "precision.json"
# Shards that find no choice all write theirs; the last one counts, which is there after this time.
_SETTLING_SECONDS = {True: 1.0, False: 0.1}  # in a bucket, in a folder


def agree_on_precision(settings: Settings, output: Storage) -> Precision:
    """Returns the precision of the run: that of the settings, or of the first shard, or else of this machine.

    Raises:
        ServiceUnavailable: If this machine cannot compute in the precision of the other shards. Another one may.
    """
    if settings.precision != "auto":
        return settings.precision
    device, _ = gpu.choose(settings)
    own = choose_precision(settings, device)
    agreed = _read(output)
    if agreed is None:
        output.write(KEY, json.dumps({"precision": own}).encode())
        time.sleep(_SETTLING_SECONDS["://" in output.uri])
        agreed = _read(output) or own
    if agreed == own:
        return own
    if device.type != "cuda" and agreed != "fp32":
        raise ServiceUnavailable(
            f"The other shards of this run compute in {agreed} on GPUs, and this machine has only its CPU: give it a "
            "GPU, or set CORAL_PRECISION=fp32 and a new CORAL_OUTPUT for all shards."
        )
    logger.info("Computing in %s, as the first shard of this run did; this machine alone would choose %s.", agreed, own)
    return agreed


def _read(output: Storage) -> Precision | None:
    if output.stat(KEY) is None:
        return None
    try:
        text = json.loads(read_required(output, KEY))["precision"]
    except (ValueError, KeyError, TypeError):  # damaged: the choice is made again, and the parts are compared with it
        return None
    return next((precision for precision in _PRECISIONS if precision == text), None)
