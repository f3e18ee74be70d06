"""Folders and buckets through fsspec, as LightlyStudio reads them too, and what goes wrong there in words."""

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec

from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_SCHEMES = ("s3", "gs", "az")
_SIMULTANEOUS = 32


def normal(uri: str, base: str = "") -> str:
    """One text for one place: an absolute path, or a URI, without a ``/`` at its end.

    Args:
        uri: A path or URI.
        base: Folder that a relative path starts from; the current one by default.

    Raises:
        SettingsError: It is of a kind that is not known.
    """
    found = _SCHEME.match(uri)
    scheme = found[1].lower() if found else ""
    rest = uri[found.end() :] if found else uri
    if scheme in ("", "file"):
        if base and not rest.startswith("/"):
            return f"{base}/{rest}"
        return os.path.abspath(rest)  # noqa: PTH100  # without `..`, and without following links
    if scheme not in _SCHEMES:
        raise SettingsError(f"{scheme}:// is not supported: give a path, or a URI of {', '.join(_SCHEMES)}.")
    return f"{scheme}://{rest.removesuffix('/')}"


def parent(uri: str) -> str:
    """The folder that a normal URI lies in."""
    return uri.rpartition("/")[0]


def opened(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a normal URI, and the path there."""
    if uri.startswith("s3://"):
        _configure_s3()
    return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]


def _configure_s3() -> None:
    """Gives s3fs what the job takes from the environment and botocore alone would not."""
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    options = fsspec.config.conf.setdefault("s3", {})
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        options["anon"] = True
    if os.environ.get("AWS_REQUEST_PAYER") == "requester":
        options["requester_pays"] = True


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what a store raises into an error of ours; a missing file stays a FileNotFoundError.

    Raises:
        AccessDenied: It may not be read.
        ServiceUnavailable: The store does not answer as it should.
    """
    try:
        yield
    except (JobError, FileNotFoundError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except PermissionError as error:
        raise AccessDenied(f"{uri} may not be read: {error}.") from error
    except Exception as error:  # each store's client has its own tree of errors
        raise ServiceUnavailable(f"{uri} cannot be read: {error}.") from error


def missing(folder: str, uris: list[str]) -> set[str]:
    """Which of some files there are not.

    Args:
        folder: Normal URI of the folder that all of them lie in; empty where they lie anywhere.
        uris: Normal URIs of the files.
    """
    remote = [each for each in uris if _SCHEME.match(each)]
    lost = {each for each in uris if not _SCHEME.match(each) and not Path(each).is_file()}
    if remote and folder:
        filesystem, root = opened(folder)
        with explained(folder):
            present = set(filesystem.find(root))
        lost.update(each for each in remote if filesystem._strip_protocol(each) not in present)
    elif remote:
        with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="exists") as pool, explained(remote[0]):
            there = pool.map(_exists, remote)
            lost.update(each for each, exists in zip(remote, there, strict=True) if not exists)
    # fsspec takes a `::` for the end of a first path, in LightlyStudio's own reads as well.
    return lost | {each for each in uris if "::" in each}


def _exists(uri: str) -> bool:
    filesystem, path = opened(uri)
    return bool(filesystem.exists(path))
