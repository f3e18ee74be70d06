"""Downloads and loads checkpoints. Untrusted ones cannot run code, and those that do not fit the model are rejected."""

import contextlib
import errno
import hashlib
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import requests
import safetensors.torch
import torch
from detectron2.checkpoint import DetectionCheckpointer

from job import limits
from job.detect import gpu
from job.detect.download import describe_error, download
from job.errors import JobError, ServiceUnavailable, SettingsError, one_line
from job.retry import TransientError
from job.storage import open_location
from job.storage.local import LocalFolder
from job.uris import Location, is_protected, redact, strip_signature

# Only files with this prefix may be pickles, since reading a pickle runs the code in it.
OFFICIAL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
# Folder next to entrypoint.py with the weights that scripts/bake.py puts into a container image.
BAKED_FOLDER = Path(__file__).parents[2] / "weights"
_MAX_PROBLEMS = 5


def fetch(location: str, setting: str = "CORAL_WEIGHTS") -> Path:
    """Returns the local path of a checkpoint, and downloads it first if needed.

    Args:
        location: A path, a bucket URI, an http(s) URL, or a ``detectron2://`` name as in detectron2's configs.
        setting: The setting that names checkpoints of its kind, for messages.

    Raises:
        SettingsError: If there is no such file.
        ServiceUnavailable: If the download fails.
    """
    url = location.replace("detectron2://", OFFICIAL_ZOO, 1)
    if not url.startswith(("http://", "https://")):
        try:
            return get_local_path(location)
        except OSError as error:
            raise SettingsError(f"{setting}={redact(location)!r} cannot be read: {error.strerror}.") from None
    shown = redact(url)
    if not is_protected(url):
        raise SettingsError(
            f"{setting}={shown!r} is not encrypted: use an https URL, or download the file and give its path."
        )
    path = _cache_folder(strip_signature(url)) / shown.rsplit("/", 1)[-1]
    if (baked := BAKED_FOLDER / path.parent.name / path.name).is_file():
        return baked
    if not path.is_file():
        try:
            download(url, path, is_allowed=_is_official if _is_official(url) else lambda target: True)
        except (requests.RequestException, OSError, TransientError) as error:
            raise ServiceUnavailable(
                f"The weights could not be downloaded from {shown} ({describe_error(error)}). "
                f"Without network access, download the file elsewhere and set {setting} to its path"
                f"{', or build the image with BAKE_WEIGHTS' if setting == 'CORAL_WEIGHTS' else ''}."
            ) from None
    return path


def get_local_path(uri: str) -> Path:
    """Returns the local path of a file; a file in a bucket is copied, and copied again when it changes.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        JobError: If its bucket cannot be used.
    """
    location = Location.parse(uri)
    if not location.scheme:
        if not Path(location.path).is_file():
            raise FileNotFoundError(errno.ENOENT, "there is no such file")
        return Path(location.path)
    folder, name = location.split()
    store = open_location(folder)
    if (entry := store.stat(name)) is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such file")
    copies = LocalFolder(str(_cache_folder(f"{location.normalized} {entry.etag}")))
    if copies.stat(name) is None:
        copies.write(name, store.read(name, entry.etag))
    return Path(copies.uri) / name


def _cache_root() -> Path:
    return Path(torch.hub.get_dir()) / "coralpick"


def _cache_folder(identity: str) -> Path:
    return _cache_root() / hashlib.sha256(identity.encode()).hexdigest()[:16]


@contextlib.contextmanager
def discard_unreadable(path: Path) -> Iterator[None]:
    """Deletes a downloaded file if reading it fails within the context: an error page may have been downloaded.

    Args:
        path: The file; it is only deleted if it is in the cache.
    """
    try:
        yield
    except SettingsError:
        if path.is_relative_to(_cache_root()):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        raise


def check_sha256(path: Path, expected: str | None) -> str:
    """Computes the SHA-256 of a checkpoint, and compares it with the one that the user expects.

    Args:
        path: The checkpoint.
        expected: Its SHA-256 in lower-case hexadecimal; None if any is accepted.

    Raises:
        SettingsError: If they differ.
    """
    found = sha256(path)
    if expected not in (None, found):
        raise SettingsError(
            f"The weights {path} have the SHA-256 {found}, but CORAL_WEIGHTS_SHA256 is {expected}: correct it, or "
            "CORAL_WEIGHTS."
        )
    return found


def sha256(path: Path) -> str:
    """Computes the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(model: torch.nn.Module, path: Path, location: str, *, trust_pickle: bool = False) -> None:
    """Loads a checkpoint into a model.

    Args:
        model: The model.
        path: The checkpoint: ``.pth``, ``.safetensors``, Darknet's ``.weights``, or ``.pkl`` from the official zoo.
        location: Its location as the user gave it.
        trust_pickle: Whether reading the file may run code, regardless of its location.

    Raises:
        SettingsError: If the file cannot be read without running code, or its tensors do not fit the model.
        ServiceUnavailable: If the GPU fails.
    """
    checkpointer = _StrictCheckpointer(model, trusted=trust_pickle or _is_official(location))
    try:
        with gpu.translate_errors():
            checkpointer.load(str(path), checkpointables=[])
    except JobError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise many types on a damaged file
        if limits.is_memory_error(error):
            raise
        raise SettingsError(f"The weights {path} cannot be read: {one_line(error)[:300]}.") from error


def _is_official(location: str) -> bool:
    url = location.replace("detectron2://", OFFICIAL_ZOO, 1)
    return url.startswith(OFFICIAL_ZOO) and ".." not in unquote(url)


class _StrictCheckpointer(DetectionCheckpointer):
    """Rejects checkpoints that do not fit. detectron2's own checkpointer logs a warning and keeps random tensors."""

    def __init__(self, model: torch.nn.Module, *, trusted: bool) -> None:
        super().__init__(model)
        self._trusted = trusted

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".weights"):
            if not hasattr(self.model, "darknet_layout"):
                raise SettingsError(
                    f"CORAL_WEIGHTS={filename!r} is a Darknet file, which {type(self.model).__name__} cannot load: "
                    "use a checkpoint of this model."
                )
            return {"model": read_darknet(Path(filename), self.model.darknet_layout())}
        if filename.endswith(".safetensors"):
            return {"model": safetensors.torch.load_file(filename)}
        if filename.endswith(".pkl") and not self._trusted:
            raise SettingsError(
                f"CORAL_WEIGHTS={filename!r} is a pickle from outside of detectron2's model zoo, and reading a pickle "
                "can run any code. Save it as .safetensors, or as .pth (torch.save of the state_dict). If you trust "
                "the author of the file, set CORAL_TRUST_PICKLE=1."
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
                f"The weights {filename} are damaged, or contain more than tensors, and reading them could run code. "
                "Save only the state_dict: torch.save({'model': model.state_dict()}, path). If you trust the author "
                "of the file, set CORAL_TRUST_PICKLE=1."
            ) from None

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        reshaped = {name for name, _, _ in incompatible.incorrect_shapes}
        # A tensor of another shape is also listed as missing. Darknet files have no batch count of a batch norm.
        missing = [
            name
            for name in incompatible.missing_keys
            if name not in reshaped and not name.endswith("num_batches_tracked")
        ]
        # Old checkpoints contain buffers that the model computes itself, such as pixel_mean.
        buffers = {name for name, _ in self.model.named_buffers()}
        problems = [
            *(
                f"{name} has shape {tuple(shape)}, but the model needs {tuple(needed)}"
                for name, shape, needed in incompatible.incorrect_shapes
            ),
            *(f"{name} is missing" for name in missing),
            *(f"{name} is not in the model" for name in incompatible.unexpected_keys if name not in buffers),
        ]
        if problems:
            more = f" and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
            raise SettingsError(
                f"The weights do not fit the model: {'; '.join(problems[:_MAX_PROBLEMS])}{more}. Use the weights "
                "that belong to CORAL_MODEL, or the config (with its number of classes) that belongs to CORAL_WEIGHTS."
            )


def read_darknet(path: Path, layout: list[tuple[str, tuple[int, ...]]]) -> dict[str, torch.Tensor]:
    """Reads a Darknet ``.weights`` file.

    The file is a header and then all parameters as float32, in the order of the network's layers. The header is three
    int32 (major, minor, revision) and the number of images in training, int64 since version 0.2 and int32 before.

    Args:
        path: The file.
        layout: Name and shape of each parameter, in the order of the file.

    Returns:
        The state dict.

    Raises:
        SettingsError: If the file has another number of parameters than the layout.
    """
    data = path.read_bytes()
    major, minor = np.frombuffer(data, "<i4", 2) if len(data) >= 20 else (0, 0)
    header = 20 if major * 10 + minor >= 2 else 16
    values = np.frombuffer(data, "<f4", offset=min(header, len(data) // 4 * 4), count=max(0, (len(data) - header) // 4))
    needed = sum(int(np.prod(shape)) for _, shape in layout)
    if len(values) != needed:
        raise SettingsError(
            f"The weights {path} have {len(values):,} parameters, but the model has {needed:,}: use the weights of "
            "this model."
        )
    state, start = {}, 0
    for name, shape in layout:
        end = start + int(np.prod(shape))
        state[name] = torch.from_numpy(values[start:end].reshape(shape).copy())
        start = end
    return state
