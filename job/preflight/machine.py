"""What the machine must offer: a GPU, memory, and places for files."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath

import torch

from job.detect import gpu
from job.errors import AccessDenied
from job.preflight.check import Findings, Known, Warn, amount
from job.uris import Location

_GIB = 1 << 30
_GPU_MEMORY = 4 * _GIB
_MEMORY = 3 * _GIB
# Parts take some 30 kB an image; the rest is embeddings, predictions and tables.
_BYTES_PER_IMAGE = 40_000
_WEIGHTS = 1_000_000_000


def device(known: Known) -> Findings:
    """The GPU, with its driver and what is free of its memory."""
    known.device, without_gpu = gpu.choose(known.settings)
    if without_gpu:
        yield Warn(f"{without_gpu} The job would go on on the CPU.")
    elif known.device.type == "cpu":
        yield f"the CPU with {os.cpu_count()} cores"
    else:
        yield _described(known.device)


def _described(chosen: torch.device) -> str:
    machine, index = gpu.look(), chosen.index or 0
    with gpu.faults():
        free, total = torch.cuda.mem_get_info(chosen)
    major, minor = machine.capabilities[index]
    words = (
        f"{machine.names[index]} of compute capability {major}.{minor}, driver {machine.driver or 'unknown'} for CUDA "
        f"up to {machine.driver_cuda[0]}.{machine.driver_cuda[1]}, torch for CUDA {machine.torch_cuda}, "
        f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    )
    if free >= _GPU_MEMORY:
        return words
    return Warn(f"{words}: see in nvidia-smi who uses the rest, take another GPU, or lower CORAL_BATCH_SIZE.")


def memory(known: Known) -> Findings:
    """What the process may take."""
    limit = memory_limit()
    words = f"{limit / _GIB:.1f} GiB of memory"
    if limit >= _MEMORY:
        yield words
    else:
        yield Warn(
            f"{words}, and images on their way to the detector alone may take {_MEMORY // _GIB}: raise the limit of "
            "the container (--memory, or resources.limits.memory), or take a larger machine."
        )


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes that this process may take: what the machine has, or less where its control groups say so.

    Args:
        root: Where /proc and /sys are.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, which has one tree for all
            folder, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A container may see its own group as the root, and be told another path; and groups above limit, too.
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # there is no such group, or it has no limit
                limits.append(int((folder / each / name).read_text()))
    return min(limits)


def temporary_files(known: Known) -> Findings:
    """Where libraries, and the upload, put what they need for a moment."""
    wanted = known.environment.get("TMPDIR") or "/tmp"  # noqa: S108  # as Python's own module looks for it
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"probe")
            file.flush()
    except OSError as error:
        raise AccessDenied(
            f"No temporary file can be written ({error.strerror}): mount a writable /tmp (--tmpfs /tmp), or set TMPDIR "
            "to a folder with room in it."
        ) from None
    taken = tempfile.gettempdir()
    if os.path.realpath(taken) == os.path.realpath(wanted):
        yield f"{taken} can be written"
    else:
        yield Warn(f"{wanted} cannot be written: temporary files go to {taken}. Set TMPDIR to a folder that can be.")


def disk(known: Known) -> Findings:
    """Room for results, and for weights that are not there yet."""
    if known.listing is None:
        return
    where, weights = Location.of(known.settings.output), known.settings.weights
    if not where.scheme:
        needed = (len(known.listing) - known.done) * _BYTES_PER_IMAGE
        yield _room(Path(where.path), needed, "the results", "name another CORAL_OUTPUT")
    to_fetch = known.detector is None and not known.settings.predictions
    if to_fetch and (weights is None or "://" in weights):
        yield _room(Path(torch.hub.get_dir()), _WEIGHTS, "weights", "set TORCH_HOME to a folder elsewhere")


def _room(folder: Path, needed: int, what: str, otherwise: str) -> str:
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    words = f"{amount(free)} are free in {folder}, and {what} take about {amount(needed)}"
    return words if free >= needed else Warn(f"{words}: make room, or {otherwise}.")
