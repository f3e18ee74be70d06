"""Chooses the device that the detector runs on, and explains why a GPU cannot be used."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pynvml
import torch

from job.errors import ServiceUnavailable, first_line
from job.settings import Settings

# The oldest NVIDIA driver for Linux that runs wheels of a CUDA generation (NVIDIA's CUDA release notes, table 3).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_OLDER_CUDA_ADVICE = "build the image with TORCH_INDEX_URL set to an older CUDA"


@dataclass(frozen=True)
class Machine:
    """The GPUs of the machine, its driver, and the GPUs that the installed torch supports.

    Attributes:
        driver: Version of the NVIDIA driver; empty if no driver responds.
        driver_cuda: Newest CUDA version that the driver supports, major and minor; zeros if unknown.
        torch_cuda: CUDA version that torch is built for, such as ``13.0``; empty for a build without CUDA.
        architectures: GPU architectures that torch is built for, such as ``sm_90``.
        names: Names of the GPUs that CUDA finds.
        capabilities: Compute capabilities of these GPUs, major and minor.
        reason: Error message of the driver or of CUDA; empty if there is none.
    """

    driver: str = ""
    driver_cuda: tuple[int, int] = (0, 0)
    torch_cuda: str = ""
    architectures: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    reason: str = ""

    def find_problem(self, index: int = 0) -> str | None:
        """Returns one sentence on why a GPU cannot be used and what to do about it; None if it can be used."""
        if not self.torch_cuda:
            return "The installed torch is built without CUDA: install the build pinned in requirements/torch.txt."
        if index < len(self.names):
            return self._check_capability(index)
        if self.names:
            return f"There is no GPU {index}: the highest index is {len(self.names) - 1}."
        if not (self.driver or self.reason):
            return (
                "There is no NVIDIA GPU, or the job has no access to it: use a machine with a GPU, and start the "
                "container with --gpus all (on Kubernetes, set a limit for nvidia.com/gpu)."
            )
        generation = int(self.torch_cuda.split(".")[0])
        if 0 < self.driver_cuda[0] < generation:
            major, minor = self.driver_cuda
            newer = f" to {_OLDEST_DRIVER[generation]} or newer" if generation in _OLDEST_DRIVER else ""
            return (
                f"The NVIDIA driver {self.driver} supports CUDA up to {major}.{minor}, but torch needs "
                f"{self.torch_cuda}: update the driver{newer}, or {_OLDER_CUDA_ADVICE}."
            )
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"CUDA finds no usable GPU{reason}: check nvidia-smi, and whether CUDA_VISIBLE_DEVICES or "
            "NVIDIA_VISIBLE_DEVICES hides the GPU."
        )

    def _check_capability(self, index: int) -> str | None:
        if runs_on(self.architectures, self.capabilities[index]):
            return None
        major, minor = self.capabilities[index]
        return (
            f"{self.names[index]} has compute capability {major}.{minor}, but torch is built for "
            f"{', '.join(self.architectures)}: use a newer GPU, or {_OLDER_CUDA_ADVICE}."
        )


def runs_on(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Checks whether code for some architectures runs on a GPU of a compute capability.

    Machine code (``sm_86``) runs on the same major version with the same or a newer minor version. Intermediate code
    (``compute_90``) also runs on all newer versions. Code with the suffix ``a`` runs only on exactly its own version,
    and code with the suffix ``f`` only on its own major version (CUDA C++ programming guide, "Application
    compatibility").

    Args:
        architectures: Names as in `torch.cuda.get_arch_list`.
        capability: Compute capability of the GPU, major and minor.
    """
    for architecture in architectures:
        kind, _, version = architecture.partition("_")
        digits = version.rstrip("af")
        built_for = (int(digits[:-1]), int(digits[-1]))
        same_generation = built_for[0] == capability[0] and not version.endswith("a")
        newer = kind == "compute" and digits == version
        if built_for == capability or (built_for < capability and (same_generation or newer)):
            return True
    return False


@functools.cache  # torch counts the GPUs once, and reports only then what is wrong with them
def inspect() -> Machine:
    """Inspects the machine. Never raises; without a driver, no GPU is listed."""
    driver, driver_cuda, reason = "", (0, 0), ""
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        driver_cuda = (version // 1000, version % 1000 // 10)
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        # A container that has only CUDA lacks the driver's own library, which is normal.
        if not isinstance(error, (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)):
            reason = str(error)
    with warnings.catch_warnings(record=True) as caught:  # torch reports in a warning why CUDA cannot be used
        warnings.simplefilter("always")
        try:
            count = torch.cuda.device_count() if torch.cuda.is_available() else 0
            properties = [torch.cuda.get_device_properties(index) for index in range(count)]
        except RuntimeError as error:
            properties, reason = [], first_line(error)
    if caught:
        reason = " ".join(str(caught[0].message).split())
    return Machine(
        driver=driver,
        driver_cuda=driver_cuda,
        torch_cuda=torch.version.cuda or "",
        architectures=tuple(torch.cuda.get_arch_list()),
        names=tuple(device.name for device in properties),
        capabilities=tuple((device.major, device.minor) for device in properties),
        reason=reason,
    )


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Translates errors of the GPU inside the block, and leaves errors of the model alone.

    Raises:
        ServiceUnavailable: If the GPU is broken, busy or out of memory. The job may succeed on another machine.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_gpu_error(error):
            raise
        raise ServiceUnavailable(
            f"GPU error ({first_line(error)}): check nvidia-smi, and whether another process is using the GPU."
        ) from error


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tells whether an error means that a smaller batch may succeed: no memory for a tensor, or for a library.

    cuDNN without memory for its workspace finds no way ("engine") to compute a convolution.
    """
    kinds = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "unable to find an engine")
    return isinstance(error, torch.OutOfMemoryError) or any(kind in str(error) for kind in kinds)


def _is_gpu_error(error: RuntimeError) -> bool:
    libraries = ("CUDNN_STATUS", "CUBLAS_STATUS")
    return isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError)) or any(
        library in str(error) for library in libraries
    )


def _try_device(device: torch.device) -> str | None:
    """Returns why a GPU does not work although CUDA finds it; None if it works."""
    try:
        with translate_errors():
            torch.zeros(1, device=device)
    except ServiceUnavailable as error:
        return str(error)
    return None


def choose(settings: Settings) -> tuple[torch.device, str | None]:
    """Chooses the device that the settings name; ``auto`` is the first GPU, or else the CPU.

    Returns:
        The device, and the reason if ``auto`` falls back to the CPU.

    Raises:
        ServiceUnavailable: If the GPU that CORAL_DEVICE names cannot be used, or no GPU and CORAL_REQUIRE_GPU is set.
            Another machine may have one.
    """
    if settings.device == "cpu":
        return torch.device("cpu"), None
    device = torch.device("cuda" if settings.device == "auto" else settings.device)
    problem = inspect().find_problem(device.index or 0) or _try_device(device)
    if problem is None:
        return device, None
    if settings.require_gpu:
        raise ServiceUnavailable(f"{problem} CORAL_REQUIRE_GPU=1 forbids falling back to the CPU.")
    if settings.device != "auto":
        raise ServiceUnavailable(f"CORAL_DEVICE={settings.device!r}: {problem} Alternatively, set CORAL_DEVICE=auto.")
    return torch.device("cpu"), problem
