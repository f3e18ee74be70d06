"""Checks of the machine: a GPU, memory, and disk space."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from job import limits
from job.errors import AccessDenied, ServiceUnavailable
from job.preflight.check import Findings, State, Warn, format_bytes
from job.uris import Location

if TYPE_CHECKING:
    import torch

_GIB = 1 << 30
_MIN_GPU_MEMORY = 4 * _GIB
_MIN_MEMORY = 3 * _GIB
# A part takes some 30 kB per image; the rest is embeddings, predictions and tables.
_OUTPUT_BYTES_PER_IMAGE = 40_000
_CHECKPOINT_BYTES = 1_000_000_000
_TMP = "/tmp"  # noqa: S108  # where Python's own module looks first


def device(state: State) -> Findings:
    """The GPU, with its driver and its free memory."""
    if not state.uses_device:
        return
    import torch  # which a selection does not need

    from job import engine
    from job.detect import gpu

    choice = engine.choose(state.settings, state.environment)
    if choice.address:
        if not state.is_run:
            yield engine.describe_cluster(choice, state.stop)
        return
    state.device, problem = gpu.choose(state.settings)
    if problem:
        yield Warn(f"{problem} Falling back to the CPU.")
    elif state.device.type == "cpu":
        yield f"the CPU with {limits.count_cores()} cores"
    elif choice.kind == "none":
        yield _describe(state.device)
    elif not state.is_run:  # each worker looks after its own GPU
        for index in choice.gpus:
            yield _describe(torch.device("cuda", index))
    if choice.words and not state.is_run:
        yield choice.words.removesuffix(".")


def _describe(device: "torch.device") -> str:
    import torch

    from job.detect import gpu

    machine, index = gpu.inspect(), device.index or 0
    with gpu.translate_errors():
        free, total = torch.cuda.mem_get_info(device)
    major, minor = machine.capabilities[index]
    words = (
        f"{machine.names[index]} of compute capability {major}.{minor}, driver {machine.driver or 'unknown'} for CUDA "
        f"up to {machine.driver_cuda[0]}.{machine.driver_cuda[1]}, torch for CUDA {machine.torch_cuda}, "
        f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    )
    if free >= _MIN_GPU_MEMORY:
        return words
    return Warn(f"{words}: find out with nvidia-smi who uses the rest, use another GPU, or lower CORAL_BATCH_SIZE.")


def memory(_: State) -> Findings:
    """Memory that the process may use."""
    limit = limits.memory_limit()
    words = f"{limit / _GIB:.1f} GiB of memory"
    if limit >= _MIN_MEMORY:
        yield words
    else:
        yield Warn(
            f"{words}, but images that wait for the detector may take {_MIN_MEMORY // _GIB} GiB: raise the limit of "
            "the container (--memory, or resources.limits.memory), or use a larger machine."
        )


def temporary_files(state: State) -> Findings:
    """A folder for the temporary files of libraries and of the upload."""
    wanted = state.environment.get("TMPDIR") or _TMP
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        # If the folder may be written to, the disk is full.
        is_full = any(os.access(folder, os.W_OK) for folder in (wanted, _TMP))
        raise (ServiceUnavailable if is_full else AccessDenied)(
            f"No temporary file can be written ({error.strerror}): mount a writable /tmp (--tmpfs /tmp), or set TMPDIR "
            "to a folder with free space."
        ) from None
    used = tempfile.gettempdir()
    if os.path.realpath(used) == os.path.realpath(wanted):
        yield f"{used} is writable"
    else:
        yield Warn(f"{wanted} is not writable, so temporary files go to {used}: set TMPDIR to a writable folder.")


def disk(state: State) -> Findings:
    """Disk space for results, and for a checkpoint that is not downloaded yet."""
    if state.listing is None:
        return
    output, weights = Location.parse(state.settings.output), state.settings.weights
    if not output.scheme:
        needed = (len(state.listing) - state.num_done) * _OUTPUT_BYTES_PER_IMAGE
        yield _compare_space(Path(output.path), needed, "the results", "set CORAL_OUTPUT to another folder")
    downloads = state.detector is None and (not state.settings.predictions or state.settings.embeds_images)
    if downloads and (weights is None or "://" in weights):
        import torch

        folder = Path(torch.hub.get_dir())
        yield _compare_space(folder, _CHECKPOINT_BYTES, "the checkpoint", "set TORCH_HOME to another folder")


def _compare_space(folder: Path, needed: int, content: str, fix: str) -> str:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    words = f"{format_bytes(free)} are free in {folder}; {content} will take about {format_bytes(needed)}"
    return words if free >= needed else Warn(f"{words}: free some space, or {fix}.")
