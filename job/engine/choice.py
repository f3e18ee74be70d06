"""Chooses the engine and the number of its workers."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from job.detect import gpu
from job.errors import SettingsError
from job.names import quantify, shorten_text
from job.settings import Settings

ADDRESS = "RAY_ADDRESS"


@dataclass(frozen=True)
class Choice:
    """What detects.

    Attributes:
        kind: The engine, ``none`` or ``ray``.
        workers: Number of workers; 0 for as many as the cluster has GPUs.
        gpus: Indices of the GPUs of this machine that the workers use; empty in a cluster, and for the CPU.
        address: Address of a Ray cluster that is there; empty for one of this machine alone.
        words: What the user is told about it; empty if there was nothing to choose.
    """

    kind: Literal["none", "ray"]
    workers: int = 1
    gpus: tuple[int, ...] = ()
    address: str = ""
    words: str = ""


def find_usable() -> tuple[int, ...]:
    """Returns the indices of the GPUs that torch can use."""
    machine = gpu.inspect()
    return tuple(index for index in range(len(machine.names)) if machine.find_problem(index) is None)


def choose(settings: Settings, environment: Mapping[str, str]) -> Choice:
    """Chooses what detects.

    Raises:
        SettingsError: If CORAL_ENGINE=ray is not possible, or RAY_ADDRESS is not the address of a cluster.
    """
    address = _read_address(environment)
    uses_one = settings.device == "cpu" or ":" in settings.device
    usable = () if uses_one else find_usable()
    if settings.engine == "none" or (settings.engine == "auto" and (uses_one or not (address or len(usable) > 1))):
        return Choice("none", words=_describe_unused(settings, usable))
    if importlib.util.find_spec("ray") is None:
        if settings.engine == "ray" or address:
            raise SettingsError("The package ray is not installed: install requirements/runtime.txt, or use the image.")
        return Choice("none", words=f"{_describe_gpus(len(usable))}, but the package ray is not installed: using one.")
    if address:
        return _choose_cluster(settings, address)
    count = min(len(usable) or settings.workers or 1, settings.workers or len(usable) or 1)
    if count == 1 and settings.engine == "auto":
        return Choice("none", words=_describe_unused(settings, usable))
    where = _describe_gpus(len(usable)) if usable else "CPU"
    fewer = f" (CORAL_WORKERS={settings.workers})" if settings.workers and settings.workers != count else ""
    words = f"{where}: {quantify(count, 'worker')} in a local Ray{fewer}."
    return Choice("ray", count, usable[:count], words=words)


def _choose_cluster(settings: Settings, address: str) -> Choice:
    count = quantify(settings.workers, "worker") if settings.workers else "one worker for each GPU"
    return Choice("ray", settings.workers or 0, address=address, words=f"Ray cluster at {address}: {count}.")


def _read_address(environment: Mapping[str, str]) -> str:
    """Returns the address of a cluster; empty for none.

    Raises:
        SettingsError: If it is that of a client or of the dashboard, through which no part of the job can run.
    """
    address = environment.get(ADDRESS, "")
    if address in ("", "local"):
        return ""
    if address != "auto" and not re.fullmatch(r"(\[[\da-fA-F:]+\]|[\w.-]+):\d+", address):
        raise SettingsError(
            f"{ADDRESS}={shorten_text(address)} is not the address of a cluster: set it to host:6379 or auto, on a "
            "machine of the cluster, or start the job with `ray job submit`."
        )
    return address


def _describe_gpus(count: int) -> str:
    return quantify(count, "GPU")


def _describe_unused(settings: Settings, usable: tuple[int, ...]) -> str:
    if len(usable) < 2:
        if (settings.workers or 1) > 1:
            return (
                f"CORAL_WORKERS={settings.workers} is not used: there are no two GPUs, and one process uses all cores. "
                "CORAL_ENGINE=ray starts workers anyway."
            )
        return ""
    reason = "CORAL_ENGINE=none" if settings.engine == "none" else f"CORAL_WORKERS={settings.workers}"
    return f"{_describe_gpus(len(usable))}, of which one is used ({reason})."
