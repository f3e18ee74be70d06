"""The upload of a run to Lightly, and the platform's own picks if the settings ask for them."""

import logging
from typing import TYPE_CHECKING

from job.choose import choose_among
from job.context import Run, Selected, SelectionInputs
from job.errors import JobError
from job.publish import manifest
from job.publish.results import list_picks, publish
from job.select import Selection
from job.storage import open_source

if TYPE_CHECKING:
    from job.lightly.api import Platform

logger = logging.getLogger(__name__)


def publish_picks(run: Run, platform: "Platform", results: SelectionInputs, selection: Selection) -> list[Selected]:
    """Uploads the run, and writes the platform's picks, or the job's own if the platform refuses to select.

    The job's own are also written first, in case the platform is unreachable, unless its picks are already there.
    """
    present = manifest.read(run.output)
    has_picks = (present.get("run_id"), present.get("selected_by")) == (results.run_id, "platform")
    own = None if has_picks else publish(run, results, selection)
    names = upload(run, platform, results, selection)
    if names is None:
        return own or publish(run, results, selection)
    platform_selection = choose_among(
        *(run.settings, run.output, results.pool, results.embeddings, results.labelled),
        elsewhere=results.elsewhere.embeddings,
        candidates=names,
    )
    return publish(run, results, platform_selection, selected_by="platform")


def upload(run: Run, platform: "Platform", results: SelectionInputs, selection: Selection) -> list[str] | None:
    """Uploads the run to Lightly; returns the platform's own picks if the settings ask for them.

    Raises:
        JobError: If the upload cannot finish now; all files of the run are written.
    """
    from job.lightly import upload as lightly_upload

    settings = run.settings
    source = None
    if settings.lightly_images == "full":
        source = open_source(settings.input, run.stop.requested, settings.frames).to_keep()
    outcome = lightly_upload.Outcome(
        results.pool,
        results.embeddings,
        results.embedding["space"],
        results.labelled,
        picks=list_picks(results.pool, selection),
        run_id=results.run_id,
    )
    try:
        with run.stage("upload"):
            return lightly_upload.upload(platform, settings, run.stop, run.output, source, outcome)
    except JobError:
        logger.warning("All results are in %s. Run the job again to upload them to Lightly.", run.output.uri)
        raise
