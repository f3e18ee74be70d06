"""What a run needs, verified before any GPU time is spent. `check` makes all checks, a run makes the cheap ones."""

import logging
from collections.abc import Mapping, Sequence

from job.errors import JobError
from job.preflight import inputs, machine, output, plan, resources
from job.preflight.check import Check, Finding, State, Warn
from job.preflight.trial import Trial
from job.settings import Settings
from job.stopping import Stop
from job.storage import Storage

logger = logging.getLogger(__name__)

# In this order, since checks use what earlier checks have found.
SETUP = (
    Check("device", machine.device, in_run=True),
    Check("memory", machine.memory, in_run=False),
    Check("temporary files", machine.temporary_files, in_run=False),
    Check("output", output.output, in_run=True),
    Check("clock", output.clock, in_run=False),
    Check("shard", inputs.shard, in_run=False),
)
UPLOAD = (Check("lightly", plan.lightly, in_run=True), Check("mlflow", plan.mlflow, in_run=True))
INPUTS = (
    Check("images", inputs.images, in_run=True),
    Check("predictions", inputs.predictions, in_run=False),
    Check("lightly names", inputs.lightly_names, in_run=True),
    Check("labelled", inputs.labelled, in_run=True),
    Check("rejected", inputs.rejected, in_run=True),
    Check("similar images", inputs.similar_images, in_run=True),
    Check("metadata", inputs.metadata, in_run=True),
    Check("embeddings", inputs.embeddings, in_run=True),
    Check("previous run", inputs.previous_run, in_run=True),
)
DETECTOR = (
    Check("detector", plan.detector, in_run=False),
    Check("classes", plan.classes, in_run=True),
    Check("objects", plan.objects, in_run=True),
)
PLAN = (
    Check("earlier results", plan.earlier_results, in_run=False),
    Check("disk", machine.disk, in_run=False),
    Check("selection", resources.selection, in_run=False),
    Check("run", plan.run, in_run=False),
)
CHECKS = (*SETUP, *UPLOAD, *INPUTS, *DETECTOR, *PLAN)


def verify(state: State, checks: Sequence[Check]) -> None:
    """Makes those checks that every run makes before its work, and logs their warnings.

    Raises:
        JobError: If a check fails.
    """
    for check in checks:
        if check.in_run:
            for finding in check.make(state):
                if isinstance(finding, JobError):
                    raise finding
                if isinstance(finding, Warn):
                    logger.warning(finding)


def verify_selection(settings: Settings, output: Storage, images: int) -> None:
    """Says what the selection will take, before anything is read for it.

    Args:
        settings: The settings.
        output: Folder of the results.
        images: Number of images; nothing is said if there are none.

    Raises:
        ServiceUnavailable: If there is not enough memory, or not enough room for temporary files.
    """
    for finding in resources.find(settings, output, images) if images else ():
        if isinstance(finding, JobError):
            raise finding
        if isinstance(finding, Warn):
            logger.warning(finding)
        else:
            logger.info("%s%s.", finding[0].upper(), finding[1:])


def run_checks(
    settings: Settings,
    stop: Stop,
    environment: Mapping[str, str],
    *,
    trial: bool = False,
    price_per_hour: float | None = None,
) -> None:
    """Makes all checks and logs one line per finding; nothing is left behind.

    Args:
        settings: The settings of the run.
        stop: Whether the job was asked to stop.
        environment: The environment variables.
        trial: Whether to run the detector on some images, to estimate the time for all images.
        price_per_hour: Price of this machine per hour, to estimate the cost of all images.

    Raises:
        JobError: If a check fails: the error of the first that failed, after all others have been made.
    """
    state = State(settings, stop, environment, uses_device=not settings.predictions or settings.embeds_images)
    checks = (*CHECKS, Check("trial", Trial(price_per_hour).estimate, in_run=False)) if trial else CHECKS
    num_made = num_failed = 0
    failures: list[JobError] = []
    for check in checks:
        findings = _log_findings(check, state)
        errors = [finding for finding in findings if isinstance(finding, JobError)]
        num_made, num_failed, failures = num_made + bool(findings), num_failed + bool(errors), failures + errors
    if failures:
        raise type(failures[0])(f"{num_failed} of {num_made} checks failed.")


def _log_findings(check: Check, state: State) -> list[Finding]:
    """Makes one check, logs what it finds, and returns that."""
    findings: list[Finding] = []
    try:
        for finding in check.make(state):
            _log(check.name, finding)
            findings.append(finding)
    except JobError as error:
        _log(check.name, error)
        findings.append(error)
    return findings


def _log(name: str, finding: Finding) -> None:
    if isinstance(finding, JobError):
        for problem in getattr(finding, "problems", [finding]):
            logger.error("check %s: failed. %s", name, problem, extra={"check": name, "outcome": "failed"})
    elif isinstance(finding, Warn):
        logger.warning("check %s: warning. %s", name, finding, extra={"check": name, "outcome": "warning"})
    else:
        logger.info("check %s: ok, %s.", name, finding, extra={"check": name, "outcome": "ok"})
