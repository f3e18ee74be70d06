"""Checks of what a run works with, and what it would do."""

import dataclasses
from pathlib import Path

from job import choose, exports, inputs, parts
from job.errors import SettingsError, TryAgain
from job.inputs import frames
from job.names import list_first, quantify
from job.parts.objects import describe_missing
from job.preflight.check import Findings, State, Warn
from job.preflight.inputs import format_size
from job.retry import Patience
from job.uris import Location


def lightly(state: State) -> Findings:
    """The token of the Lightly platform, and the dataset."""
    settings = state.settings
    if settings.token is None:
        yield "no token is set, so nothing is uploaded"
        return
    from job.lightly import upload  # it takes seconds to import
    from job.lightly.api import Platform
    from job.lightly.transport import Transport

    state.platform = Platform(Transport(settings.token, settings.lightly_server, state.stop.requested))
    once = Transport(settings.token, settings.lightly_server, state.stop.requested, Patience(total=0))
    try:
        dataset = upload.find_dataset(Platform(once), settings)
    except TryAgain as error:
        yield Warn(f"{error} The upload comes last, so a run starts anyway.")
        return
    exists = "exists" if dataset else "will be created"
    yield f"the token is accepted; the dataset {settings.lightly_dataset!r} {exists}"
    if state.shard.count > 1:
        yield Warn("`run` with several shards does not upload: use `predict` in the shards, then `select`.")


def mlflow(state: State) -> Findings:
    """The tracking server, if the run is to be logged there."""
    if not state.settings.mlflow:
        return
    from job.publish import tracking

    tracker = tracking.connect(state.stop.requested, Patience(total=0))
    try:
        exists = tracker.find_experiment() is not None
    except TryAgain as error:
        yield Warn(f"{error} The run is logged last, so it starts anyway.")
        return
    yield f"the experiment {tracker.experiment!r} {'exists' if exists else 'will be created'}"


def detector(state: State) -> Findings:
    """The model with its weights, built and run once."""
    settings = state.settings
    if settings.predictions and not settings.embeds_images:
        return
    from job.detect import embedder  # detectron2, which a selection from other detections does not need

    built = embedder.build(dataclasses.replace(settings, device=str(state.device or "cpu"), require_gpu=False))
    state.detector = built
    if settings.predictions:
        yield f"it embeds the images for CORAL_EMBEDDING={settings.embedding!r}, {built.precision}"
        return
    names = list_first(built.class_names)
    of_classes = f"{quantify(len(built.class_names), 'class', 'classes')} ({names})"
    yield f"{of_classes}, class probabilities: {built.probabilities}, {built.precision}"


def objects(state: State) -> Findings:
    """The features of boxes, if the strategy compares them."""
    if not state.settings.strategy.uses_objects or state.detector is None:
        return
    if state.detector.probabilities == "synthetic":
        raise SettingsError(describe_missing())
    yield "the detector has the features of boxes that CORAL_STRATEGY compares"


def classes(state: State) -> Findings:
    """The classes that the settings of the selection and of the exports name."""
    settings = state.settings
    class_names = state.class_names
    if class_names is None and state.detector is not None and not settings.predictions:
        class_names = state.detector.class_names
    if class_names is None:
        return
    choose.check_classes(settings, class_names)
    exports.check_classes(settings.export_classes, class_names)
    given = {"CORAL_CLASS_WEIGHTS": settings.class_weights, "CORAL_EXPORT_CLASSES": settings.export_classes}
    if named := [name for name, value in given.items() if value]:
        yield f"the detector has the classes of {' and '.join(named)}"


def earlier_results(state: State) -> Findings:
    """Results in the output that this run resumes from; results of other settings are refused."""
    if state.output is None or state.listing is None or (provenance := _find_provenance(state)) is None:
        return
    location = Location.parse(state.settings.output)
    if not location.scheme and not Path(location.path).is_dir():
        return
    done = parts.find_done(state.output, provenance, state.shard)
    state.num_done = sum((entry.key, entry.etag) in done for entry in state.listing) if done else 0
    if warning := inputs.describe_replaced(done, state.listing, state.shard):
        yield Warn(warning)
    if state.num_done and state.detector is not None:  # to import predictions again takes no time
        yield f"{state.num_done} of {len(state.listing)} images are finished"


def _find_provenance(state: State) -> parts.Provenance | None:
    """What the parts of a run would be made with; None if an earlier check has failed."""
    if state.imported is not None and state.to_embed is None:
        return state.imported
    if state.detector is None:
        return None
    from job.detect import runner

    return runner.provenance(state.detector, state.to_embed)


def run(state: State) -> Findings:
    """What the run would do."""
    settings, listing = state.settings, state.listing
    if listing is None:
        return
    strategy, count = settings.strategy, len(listing) - len(state.absent)
    by = strategy.title + (f" with {settings.score}" if strategy.uses_scores and not strategy.entries else "")
    shard = f" in shard {state.shard.index} of {state.shard.count}" if state.shard.count > 1 else ""
    size = f" ({format_size(listing)})" if frames.count(listing) < len(listing) else ""  # that of frames is unknown
    yield (
        f"it would use {quantify(count, 'image')}{size}{shard}, pick {settings.n_samples} by {by}, "
        f"and write to {settings.output}"
    )
    if state.shard.count == 1 and count < settings.n_samples:
        yield Warn(
            f"CORAL_N_SAMPLES={settings.n_samples} is more than the number of images: the run would pick all that "
            "it can."
        )
