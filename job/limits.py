"""What this process may use of the machine: cores and memory, which a container usually limits."""

import contextlib
import ctypes
import errno
import mmap
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from pathlib import Path, PurePosixPath

from job.errors import ServiceUnavailable, first_line

_ROOT = Path("/")  # holds /proc and /sys
_TRIAL_BYTES = 1 << 29  # as the largest image takes
_TEXTS_OF_MEMORY_ERRORS = re.compile(
    r"insufficient memory|not enough memory|bad_alloc|failed to allocate|(can't|cannot|could not|unable to) allocate",
    re.IGNORECASE,
)


def count_cores(root: Path = _ROOT) -> int:
    """Counts the cores that this process may use.

    They are those of the machine, or fewer if its affinity or the processor time of its control groups are limited. A
    limit of 1.5 cores counts as 1, since threads that share a core wait for each other.

    Args:
        root: Folder that holds /proc and /sys.
    """
    cores = [os.cpu_count() or 1, len(os.sched_getaffinity(0))]
    for version, folder in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit
            if version == 2:
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if int(quota) > 0:
                cores.append(max(1, int(quota) // int(period)))
    return min(cores)


def limit_threads(environment: MutableMapping[str, str], root: Path = _ROOT) -> None:
    """Lets the libraries use as many threads as there are cores; they know the affinity, but not the control groups.

    It must be called before they are imported. More threads than cores would wait for each other.

    Args:
        environment: The environment variables. OMP_NUM_THREADS is kept if it is set.
        root: Folder that holds /proc and /sys.
    """
    if (cores := count_cores(root)) < len(os.sched_getaffinity(0)):
        environment.setdefault("OMP_NUM_THREADS", str(cores))


def memory_limit(root: Path = _ROOT) -> int:
    """Bytes of memory that this process may use: those of the machine, or fewer if its control groups limit them.

    Args:
        root: Folder that holds /proc and /sys.
    """
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for version, folder in _groups(root, "memory"):
        name = "memory.max" if version == 2 else "memory.limit_in_bytes"
        with contextlib.suppress(OSError, ValueError):  # no such group, or no limit
            limits.append(int((folder / name).read_text()))
    return min(limits)


def is_in_memory(folder: Path, root: Path = _ROOT) -> bool:
    """Returns whether the files of a folder are held in memory (tmpfs), so that they count as memory of the container.

    Args:
        folder: The folder.
        root: Folder that holds /proc.
    """
    kinds: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/mounts").read_text().splitlines():
            _, place, kind, *_ = line.split(" ")
            kinds[place.replace("\\040", " ")] = kind
    resolved = folder.resolve()
    nearest = next((kinds[str(path)] for path in (resolved, *resolved.parents) if str(path) in kinds), "")
    return nearest in ("tmpfs", "ramfs")


def is_memory_error(error: BaseException) -> bool:
    """Returns whether an error says that there is not enough memory. OpenCV and torch have no class for that."""
    known = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    return known or _TEXTS_OF_MEMORY_ERRORS.search(str(error)) is not None


def explain_memory_error(error: BaseException) -> ServiceUnavailable | None:
    """Returns the error that ends the job if an error says that there is not enough memory, or None."""
    if not is_memory_error(error):
        return None
    return ServiceUnavailable(
        f"There is not enough memory ({first_line(error)}). Raise the limit of the container (--memory, or "
        "resources.limits.memory), or use a larger machine, and run the job again. Finished work is saved."
    )


def lacks_memory(error: BaseException) -> bool:
    """Returns whether there is not enough memory, after an error that says so, or that may say it as damage of a file.

    Some libraries report it like that. So half a gigabyte is reserved for a moment, without being used.
    """
    if is_memory_error(error):
        return True
    try:
        mmap.mmap(-1, _TRIAL_BYTES).close()
    except OSError:
        return True
    return False


def return_memory() -> None:
    """Gives memory that is free again back to the system.

    Otherwise Arrow and malloc keep what a stage needed for a moment, and the next stage needs as much besides: 0.4 GB
    after boxes were read from parts of 16,384 images.
    """
    if (pyarrow := sys.modules.get("pyarrow")) is not None:
        pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError):  # a C library other than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _groups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yields the version and the folder of each control group that this process is in, with all groups above it."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, which has one tree for all controllers
            version, folder = 2, root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            version, folder = 1, root / "sys/fs/cgroup" / controller
        else:
            continue
        # In a container the root may be its own group, whatever the path says; and groups above have limits, too.
        group = PurePosixPath(path.lstrip("/"))
        for parent in (group, *group.parents):
            yield version, folder / parent
