"""Everything that a run needs, tried one by one before any time on a GPU is spent: `check`."""

import logging
from collections.abc import Mapping

from job.errors import JobError, Stopped
from job.preflight import inputs, machine, output, plan
from job.preflight.check import Check, Finding, Known, Warn
from job.preflight.trial import Trial
from job.settings import Settings
from job.stopping import Stop

logger = logging.getLogger(__name__)

# In this order, since some need what others have found.
_DETECTING: tuple[Check, ...] = (
    *(machine.device, machine.memory, machine.temporary_files, output.output, output.clock),
    *(inputs.shard, inputs.images, inputs.labelled, inputs.previous_run),
    *(plan.detector, plan.embeddings, plan.earlier_results, machine.disk, plan.lightly, plan.run),
)
# Detections from elsewhere need neither the images nor the detector.
_DETECTED: tuple[Check, ...] = (
    *(machine.memory, machine.temporary_files, output.output, output.clock),
    *(inputs.predictions, inputs.labelled, plan.embeddings, machine.disk, plan.lightly, plan.run),
)


def run_checks(
    settings: Settings,
    stop: Stop,
    environment: Mapping[str, str],
    *,
    trial: bool = False,
    price_per_hour: float | None = None,
) -> None:
    """Tries all of it, and logs a line for each; nothing is left behind.

    Args:
        settings: Of the run.
        stop: Whether the job is asked to stop.
        environment: The environment variables.
        trial: Whether some images are also detected on, to tell how long all of them take.
        price_per_hour: Of this machine, for what that costs.

    Raises:
        JobError: The first that failed, after the others have been tried, too.
    """
    known = Known(settings, stop, environment)
    told = failed = 0
    failures: list[JobError] = []
    for each in (*(_DETECTED if settings.predictions else _DETECTING), *((Trial(price_per_hour),) if trial else ())):
        found = _told(each.__name__.replace("_", " "), each, known)
        errors = [one for one in found if isinstance(one, JobError)]
        told, failed, failures = told + bool(found), failed + bool(errors), failures + errors
    if failures:
        raise type(failures[0])(f"{failed} of {told} checks failed.")


def _told(name: str, each: Check, known: Known) -> list[Finding]:
    """Makes one check, logs what it finds, and returns that."""
    told: list[Finding] = []
    try:
        for found in each(known):
            _log(name, found)
            told.append(found)
    except Stopped:
        raise
    except JobError as error:
        _log(name, error)
        told.append(error)
    return told


def _log(name: str, found: Finding) -> None:
    if isinstance(found, JobError):
        logger.error("check %s: failed. %s", name, found, extra={"check": name, "outcome": "failed"})
    elif isinstance(found, Warn):
        logger.warning("check %s: warning. %s", name, found, extra={"check": name, "outcome": "warning"})
    else:
        logger.info("check %s: ok, %s.", name, found, extra={"check": name, "outcome": "ok"})
