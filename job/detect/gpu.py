"""Which device the detector runs on, and why it is not a GPU where it could be one."""

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import pynvml
import torch

from job.errors import ServiceUnavailable, SettingsError, first_line
from job.settings import Settings

# The oldest NVIDIA driver for Linux that runs wheels of a CUDA generation (NVIDIA's CUDA release notes, table 3).
_OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
_OLDER_CUDA = "build the image with TORCH_INDEX_URL of an older CUDA"


@dataclass(frozen=True)
class Machine:
    """What the machine offers, and what the installed torch can make use of.

    Attributes:
        driver: Version of the NVIDIA driver; empty where there is none, or none that answers.
        driver_cuda: The newest CUDA that this driver runs, major and minor; zeros where that is not known.
        torch_cuda: CUDA that torch is built for, such as ``13.0``; empty where it is built without.
        architectures: GPU architectures that torch is built for, such as ``sm_90``.
        names: Of the GPUs that CUDA finds.
        capabilities: Their compute capabilities, major and minor.
        reason: What the driver or CUDA says where there is none.
    """

    driver: str = ""
    driver_cuda: tuple[int, int] = (0, 0)
    torch_cuda: str = ""
    architectures: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    capabilities: tuple[tuple[int, int], ...] = ()
    reason: str = ""

    def problem(self, index: int = 0) -> str | None:
        """Why a GPU cannot be used, with what to do about it, as one sentence; None where it can."""
        if not self.torch_cuda:
            return "The installed torch is built without CUDA: install the one of requirements/runtime.txt."
        if index < len(self.names):
            return self._unsupported(index)
        if self.names:
            return f"There is no GPU {index}: the last one is {len(self.names) - 1}."
        if not (self.driver or self.reason):
            return (
                "There is no NVIDIA GPU, or it is not handed to the job: use a machine that has one, and start the "
                "container with --gpus all (on Kubernetes, with a limit of nvidia.com/gpu)."
            )
        generation = int(self.torch_cuda.split(".")[0])
        if 0 < self.driver_cuda[0] < generation:
            major, minor = self.driver_cuda
            newer = f" to {_OLDEST_DRIVER[generation]} or newer" if generation in _OLDEST_DRIVER else ""
            return (
                f"The NVIDIA driver {self.driver} runs CUDA up to {major}.{minor}, and torch needs "
                f"{self.torch_cuda}: update the driver{newer}, or {_OLDER_CUDA}."
            )
        reason = f" ({self.reason})" if self.reason else ""
        return (
            f"CUDA finds no GPU that it can use{reason}: see what nvidia-smi shows, and whether "
            "CUDA_VISIBLE_DEVICES or NVIDIA_VISIBLE_DEVICES hides it."
        )

    def _unsupported(self, index: int) -> str | None:
        if runs_on(self.architectures, self.capabilities[index]):
            return None
        major, minor = self.capabilities[index]
        return (
            f"{self.names[index]} has compute capability {major}.{minor}, and torch is built for "
            f"{', '.join(self.architectures)}: take a newer GPU, or {_OLDER_CUDA}."
        )


def runs_on(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """Whether code for some architectures runs on a GPU of a compute capability.

    Machine code (``sm_86``) runs on its own major version from its minor version on, and intermediate code
    (``compute_90``) on everything newer; with an ``a`` at the end, neither runs on any but its own, and with an ``f``
    on none of another major version (CUDA C++ programming guide, "Application compatibility").

    Args:
        architectures: As `torch.cuda.get_arch_list` names them.
        capability: Major and minor.
    """
    for each in architectures:
        kind, _, version = each.partition("_")
        digits = version.rstrip("af")
        built_for = (int(digits[:-1]), int(digits[-1]))
        same_generation = built_for[0] == capability[0] and not version.endswith("a")
        newer = kind == "compute" and digits == version
        if built_for == capability or (built_for < capability and (same_generation or newer)):
            return True
    return False


@functools.cache  # torch counts the GPUs once, and says only then what is wrong with them
def look() -> Machine:
    """Looks at the machine. It never raises; without a driver there is just nothing."""
    driver, driver_cuda, reason = "", (0, 0), ""
    try:
        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        driver_cuda = (version // 1000, version % 1000 // 10)
        pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        # The driver's own library may also be left out where a container is given CUDA alone.
        if not isinstance(error, (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded)):
            reason = str(error)
    with warnings.catch_warnings(record=True) as caught:  # torch tells in a warning why CUDA cannot be used
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
        names=tuple(each.name for each in properties),
        capabilities=tuple((each.major, each.minor) for each in properties),
        reason=reason,
    )


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """Work on the device, whose own failures are not the model's.

    Raises:
        ServiceUnavailable: The GPU is broken, busy or full. Another machine may have a better one.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_fault(error):
            raise
        raise ServiceUnavailable(
            f"The GPU fails ({first_line(error)}): see what nvidia-smi shows, and whether others use it, too."
        ) from error


def _is_fault(error: RuntimeError) -> bool:
    libraries = ("CUDNN_STATUS", "CUBLAS_STATUS")
    return isinstance(error, (torch.AcceleratorError, torch.OutOfMemoryError)) or any(
        each in str(error) for each in libraries
    )


def _tried(device: torch.device) -> str | None:
    """Why a GPU does not work, although it is there."""
    try:
        with faults():
            torch.zeros(1, device=device)
    except ServiceUnavailable as error:
        return str(error)
    return None


def choose(settings: Settings) -> tuple[torch.device, str | None]:
    """The device that the settings name, or the best there is.

    Returns:
        The device; and, where auto had to take the CPU, why.

    Raises:
        ServiceUnavailable: CORAL_REQUIRE_GPU is set, and no GPU can be used. Another machine may have one.
        SettingsError: CORAL_DEVICE names a GPU that cannot be used.
    """
    if settings.device == "cpu":
        return torch.device("cpu"), None
    device = torch.device("cuda" if settings.device == "auto" else settings.device)
    problem = look().problem(device.index or 0) or _tried(device)
    if problem is None:
        return device, None
    if settings.require_gpu:
        raise ServiceUnavailable(f"{problem} CORAL_REQUIRE_GPU=1 forbids the CPU.")
    if settings.device != "auto":
        raise SettingsError(f"CORAL_DEVICE={settings.device!r}: {problem} Or set CORAL_DEVICE=auto.")
    return torch.device("cpu"), problem
