"""Checkpoints: read without running code from outside, and loaded only when they fit the model."""

import errno
import hashlib
import pickle
import threading
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import requests
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer

from job.detect import gpu
from job.errors import JobError, ServiceUnavailable, SettingsError, one_line
from job.progress import Progress
from job.retry import Attempt, Patience, TransientError, persist
from job.storage import open_location
from job.storage.local import LocalFolder
from job.uris import Location, identity, redacted

# Only files from here may be pickles, since reading a pickle runs what is in it.
OFFICIAL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
# Where an image has the weights that it was built with (scripts/bake.py): entrypoint.py's own folder.
BAKED = Path(__file__).parents[2] / "weights"
_SHOWN = 5
_PATIENCE = Patience(attempt=60)
_SECONDS_TO_TRY = 15.0


def fetch(location: str) -> Path:
    """Gives the local path of a checkpoint, downloading it once if it lies elsewhere.

    Args:
        location: A path, a URI of a bucket, an http(s) URL, or a ``detectron2://`` name as used in detectron2's
            configurations.

    Raises:
        SettingsError: There is no such file.
        ServiceUnavailable: The download failed.
    """
    url = location.replace("detectron2://", OFFICIAL_ZOO, 1)
    if not url.startswith(("http://", "https://")):
        try:
            return local_copy(location)
        except OSError as error:
            raise SettingsError(f"CORAL_WEIGHTS={redacted(location)!r} cannot be read: {error.strerror}.") from None
    shown = redacted(url)
    path = _cache(identity(url)) / shown.rsplit("/", 1)[-1]
    if (baked := BAKED / path.parent.name / path.name).is_file():
        return baked
    if not path.is_file():
        try:
            _download(url, path)
        except (requests.RequestException, OSError, TransientError) as error:
            raise ServiceUnavailable(
                f"The weights could not be downloaded from {shown} ({_reason(error)}). "
                "Without a network, download that file elsewhere and set CORAL_WEIGHTS to its path, or build the image "
                "with BAKE_WEIGHTS."
            ) from None
    return path


def local_copy(uri: str) -> Path:
    """The local path of a file; of one in a bucket, a copy that is renewed when it changes.

    Raises:
        OSError: There is no such file, or it cannot be read.
        JobError: Its bucket cannot be used.
    """
    where = Location.of(uri)
    if not where.scheme:
        if not Path(where.path).is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        return Path(where.path)
    folder, name = where.split()
    store = open_location(folder)
    if (entry := store.stat(name)) is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file")
    copies = LocalFolder(str(_cache(f"{where.normal} {entry.etag}")))
    if copies.stat(name) is None:
        copies.write(name, store.read(name, entry.etag))
    return Path(copies.uri) / name


def _cache(identity: str) -> Path:
    return Path(torch.hub.get_dir()) / "coralpick" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _reason(error: Exception) -> str:
    """Why a download failed; the texts of these errors hold whole URLs, signatures and all."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, requests.RequestException):
        return type(error).__name__
    return str(error)


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    never = threading.Event()
    persist(lambda attempt: _get(url, path, attempt), patience=_PATIENCE, stop=never, total=_SECONDS_TO_TRY)


def _get(url: str, path: Path, attempt: Attempt) -> None:
    # Each attempt has a file of its own, since one that took too long may still be writing.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with requests.get(url, stream=True, timeout=(10, 30)) as response, temporary.open("wb") as file:
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise TransientError(f"the server answers {response.status_code}")
            response.raise_for_status()
            if _official(url) and not _official(response.url):
                raise OSError("the server leads to another one, which is not detectron2's")
            attempt.give_up = response.close
            size = int(response.headers.get("Content-Length", 0))
            attempt.expect(size or 1 << 30)
            with Progress("Downloading the weights", size, "byte") as progress:
                for block in response.iter_content(1 << 20):  # a body that is cut short raises
                    file.write(block)
                    progress.add(len(block))
        temporary.replace(path)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TransientError(type(error).__name__) from None
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(model: torch.nn.Module, path: Path, location: str, *, trust_pickle: bool = False) -> None:
    """Loads a checkpoint into a model.

    Args:
        model: The model.
        path: The checkpoint: ``.pth``, ``.safetensors``, Darknet's ``.weights``, or ``.pkl`` from the official zoo.
        location: Where it came from, as the user gave it.
        trust_pickle: Whether reading it may run code, wherever it came from.

    Raises:
        SettingsError: The file cannot be read safely, or its tensors are not those of the model.
        ServiceUnavailable: The GPU fails.
    """
    checkpointer = _StrictCheckpointer(model, trusted=trust_pickle or _official(location))
    try:
        with gpu.faults():
            checkpointer.load(str(path), checkpointables=[])
    except JobError:
        raise
    except Exception as error:  # a damaged file makes torch, pickle and zipfile raise all kinds
        raise SettingsError(f"The weights {path} cannot be read: {one_line(error)[:300]}.") from error


def _official(location: str) -> bool:
    url = location.replace("detectron2://", OFFICIAL_ZOO, 1)
    return url.startswith(OFFICIAL_ZOO) and ".." not in unquote(url)


class _StrictCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer, which by itself only logs what does not fit and goes on with random tensors."""

    def __init__(self, model: torch.nn.Module, *, trusted: bool) -> None:
        super().__init__(model)
        self._trusted = trusted

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".weights"):
            if not hasattr(self.model, "darknet_layout"):
                raise SettingsError(
                    f"CORAL_WEIGHTS={filename!r} is a Darknet file, which {type(self.model).__name__} cannot load."
                )
            return {"model": read_darknet(Path(filename), self.model.darknet_layout())}
        if filename.endswith(".safetensors"):
            return {"model": safetensors.torch.load_file(filename)}
        if filename.endswith(".pkl") and not self._trusted:
            raise SettingsError(
                f"CORAL_WEIGHTS={filename!r} is a pickle, which can run any code when it is read, and not from "
                "detectron2's model zoo. Save it as .safetensors, or as .pth (torch.save of the state_dict); or, if "
                "you trust whoever made it, set CORAL_TRUST_PICKLE=1."
            )
        loaded: dict[str, Any] = super()._load_file(filename)
        return loaded

    def _torch_load(self, filename: str) -> Any:
        try:
            return torch.load(filename, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            if self._trusted:
                return torch.load(filename, map_location="cpu", weights_only=False)
            raise SettingsError(
                f"The weights {filename} are damaged, or hold more than tensors, and reading that could run code. "
                "Save the state_dict alone, torch.save({'model': model.state_dict()}, path); or, if you trust whoever "
                "made the file, set CORAL_TRUST_PICKLE=1."
            ) from None

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        reshaped = {name for name, _, _ in incompatible.incorrect_shapes}
        # A tensor of another shape is listed as missing too, and Darknet does not count the batches of a batch norm.
        missing = [n for n in incompatible.missing_keys if n not in reshaped and not n.endswith("num_batches_tracked")]
        # Buffers that the model computes itself, such as pixel_mean, are in old checkpoints.
        buffers = {name for name, _ in self.model.named_buffers()}
        problems = [
            *(f"{n} is {tuple(a)} where the model has {tuple(b)}" for n, a, b in incompatible.incorrect_shapes),
            *(f"{name} is missing" for name in missing),
            *(f"{name} is not in the model" for name in incompatible.unexpected_keys if name not in buffers),
        ]
        if problems:
            more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
            raise SettingsError(
                f"The weights do not fit the model: {'; '.join(problems[:_SHOWN])}{more}. Give the weights that belong "
                "to CORAL_MODEL, or the yaml (with its number of classes) that belongs to CORAL_WEIGHTS."
            )


def read_darknet(path: Path, layout: list[tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    """Reads a Darknet ``.weights`` file.

    The file is a header (three int32: major, minor, revision; then the number of images seen, int64 from version 0.2 on
    and int32 before) and all parameters as float32 one after the other, in the order that the network defines.

    Args:
        path: The file.
        layout: Name and shape of each parameter, in that order.

    Returns:
        The state dict.

    Raises:
        SettingsError: The file holds another number of parameters.
    """
    data = path.read_bytes()
    major, minor = np.frombuffer(data, "<i4", 2) if len(data) >= 20 else (0, 0)
    header = 20 if major * 10 + minor >= 2 else 16
    values = np.frombuffer(data, "<f4", offset=min(header, len(data) // 4 * 4), count=max(0, (len(data) - header) // 4))
    needed = sum(int(np.prod(shape)) for _, shape in layout)
    if len(values) != needed:
        raise SettingsError(f"The weights {path} hold {len(values):,} parameters where the model has {needed:,}.")
    state, start = {}, 0
    for name, shape in layout:
        end = start + int(np.prod(shape))
        state[name] = torch.from_numpy(values[start:end].reshape(shape).copy())
        start = end
    return state
