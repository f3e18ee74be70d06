"""Starts a local Ray, or joins a cluster that is there."""

import contextlib
import logging
import os
import platform
import secrets
import socket
from collections.abc import Iterator

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError

from job.engine.choice import Choice
from job.errors import ServiceUnavailable, SettingsError, first_line
from job.names import escape, list_first, quantify
from job.stopping import Stop

# Only names and small tables of pieces pass through it; Ray accepts no less than 75 MiB.
_OBJECT_STORE_BYTES = 80 << 20
_SECONDS_TO_CONNECT = 10.0
_LIGHTLY = ("LIGHTLY_TOKEN", "LIGHTLY_TOKEN_FILE")
_VISIBLE = "CUDA_VISIBLE_DEVICES"

# The errors of a call whose worker, machine or answer is gone. Out of memory, Ray itself ends a worker.
LOST = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)


def start(choice: Choice, stop: Stop) -> None:
    """Starts a local Ray for the chosen workers, or joins the cluster that was chosen.

    Raises:
        ServiceUnavailable: If it does not start, or no cluster answers.
        SettingsError: If the cluster has another version of Ray or of Python.
        Stopped: If the job was asked to stop meanwhile.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _take_over_log()
    with stop.lend():  # Ray sets a handler of SIGTERM, which exits
        if choice.address:
            _init(address=choice.address)
        else:
            with _local_environment(choice):
                # With numbers of its own: Ray counts GPUs that torch cannot use, and a worker needs no core of Ray's.
                _init(
                    address="local",
                    num_cpus=0,
                    num_gpus=choice.workers,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                )


def _take_over_log() -> None:
    """Lets the errors of Ray appear as the job's own lines do; it also warns of what the job has chosen."""
    logger = logging.getLogger("ray")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.ERROR)


def _init(address: str, **options: int | bool) -> None:
    try:
        if ":" in address:  # Ray itself tries for many minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_CONNECT).close()
        ray.init(address=address, **options, log_to_driver=False, configure_logging=False)
    except (RuntimeError, OSError, ValueError) as error:  # a ConnectionError is an OSError
        reason = escape(first_line(error))
        if "ersion mismatch" in str(error):
            raise SettingsError(
                f"The Ray cluster at {address} runs other versions ({reason}): use one image for all of its machines."
            ) from error
        if address == "local":
            raise ServiceUnavailable(
                f"Cannot use a local Ray ({reason}): set CORAL_ENGINE=none for one GPU without it."
            ) from error
        raise ServiceUnavailable(
            f"Cannot use the Ray cluster at {address} ({reason}): check RAY_ADDRESS, and RAY_AUTH_TOKEN if it is set."
        ) from error


@contextlib.contextmanager
def _local_environment(choice: Choice) -> Iterator[None]:
    """What the processes of a local Ray inherit: the chosen GPUs, no token of Lightly, and a token of their own.

    Without a token of its own, Ray would leave one in the home folder, which may not be writable.
    """
    changed: dict[str, str | None] = dict.fromkeys(_LIGHTLY)
    if "RAY_AUTH_TOKEN" not in os.environ:
        changed["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    if choice.gpus:
        visible = os.environ.get(_VISIBLE)
        names = visible.split(",") if visible else []
        changed[_VISIBLE] = ",".join(names[index] if names else str(index) for index in choice.gpus)
    before = {name: os.environ.get(name) for name in changed}
    _set_variables(changed)
    try:
        yield
    finally:
        # The own token stays: this process needs it as long as Ray runs.
        _set_variables({name: value for name, value in before.items() if name != "RAY_AUTH_TOKEN"})


def _set_variables(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def describe_cluster(choice: Choice, stop: Stop) -> str:
    """Joins a cluster for a moment, and returns what it consists of.

    Raises:
        ServiceUnavailable: If no cluster answers.
        SettingsError: If it has another version of Ray or of Python.
    """
    try:
        start(choice, stop)
        nodes = [(node["NodeManagerAddress"], _count_gpus(node["Resources"])) for node in ray.nodes() if node["Alive"]]
    finally:
        close()
    shown = list_first([f"{address} with {quantify(gpus, 'GPU')}" for address, gpus in sorted(nodes)])
    return (
        f"the Ray cluster at {choice.address} with Ray {ray.__version__} and Python {platform.python_version()} has "
        f"{quantify(sum(gpus for _, gpus in nodes), 'GPU')} in {quantify(len(nodes), 'node')} ({shown})"
    )


def is_alive(node_id: str) -> bool:
    """Whether a machine is in the cluster, as far as the cluster knows."""
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def count_gpus() -> int:
    """Counts the GPUs of the cluster, also those that are in use."""
    return _count_gpus(ray.cluster_resources())


def list_cores() -> list[str]:
    """Names of the machines of the cluster, once for each of their cores: all first cores, then all second ones."""
    cores = [
        (number, str(node["NodeID"]))
        for node in ray.nodes()
        if node["Alive"]
        for number in range(int(node["Resources"].get("CPU", 0)))
    ]
    return [name for _, name in sorted(cores)]


def _count_gpus(resources: dict[str, float]) -> int:
    return int(resources.get("GPU", 0))


def close() -> None:
    """Ends the local Ray, or leaves the cluster, which then ends the workers."""
    ray.shutdown()
