"""Folders and buckets through fsspec, which LightlyStudio uses, too, with errors in plain words."""

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


def normalize(uri: str, base: str = "") -> str:
    """Normalizes a location to an absolute path or a URI, without a ``/`` at its end.

    Args:
        uri: A path or URI.
        base: Folder that a relative path starts from; the current folder by default.

    Raises:
        SettingsError: If the scheme of the URI is not supported.
    """
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    rest = uri[match.end() :] if match else uri
    if scheme in ("", "file"):
        if base and not rest.startswith("/"):
            return f"{base}/{rest}"
        return os.path.abspath(rest)  # noqa: PTH100  # without `..`, and without following links
    if scheme not in _SCHEMES:
        raise SettingsError(f"{scheme}:// is not supported: give a path, or a URI of {', '.join(_SCHEMES)}.")
    return f"{scheme}://{rest.removesuffix('/')}"


def parent(uri: str) -> str:
    """The parent folder of a normalized URI."""
    return uri.rpartition("/")[0]


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Opens the file system of a normalized URI; returns it with the path of the URI in it."""
    if uri.startswith("s3://"):
        _configure_s3()
    return fsspec.core.url_to_fs(uri)  # type: ignore[no-any-return]


def _configure_s3() -> None:
    """Passes to s3fs the variables that the job reads and botocore does not."""
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    options = fsspec.config.conf.setdefault("s3", {})
    if os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("1", "true", "yes"):
        options["anon"] = True
    if os.environ.get("AWS_REQUEST_PAYER") == "requester":
        options["requester_pays"] = True


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Translates the errors of a store into a `JobError`; a missing file stays a FileNotFoundError.

    Raises:
        AccessDenied: If the permission to read the file is missing.
        ServiceUnavailable: If the store fails in another way.
    """
    try:
        yield
    except (JobError, FileNotFoundError):
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from error
    except PermissionError as error:
        raise AccessDenied(f"Permission denied: cannot read {uri}: {error}.") from error
    except Exception as error:  # the client of each store has its own error classes
        raise ServiceUnavailable(f"Cannot read {uri}: {error}.") from error


def find_missing(folder: str, uris: list[str]) -> set[str]:
    """Finds the files that do not exist.

    Args:
        folder: Normalized URI of the folder that contains all files; empty if they have no common folder.
        uris: Normalized URIs of the files.
    """
    remote = [uri for uri in uris if _SCHEME.match(uri)]
    missing = {uri for uri in uris if not _SCHEME.match(uri) and not Path(uri).is_file()}
    if remote and folder:
        filesystem, root = open_filesystem(folder)
        with translate_errors(folder):
            present = set(filesystem.find(root))
        missing.update(uri for uri in remote if filesystem._strip_protocol(uri) not in present)
    elif remote:
        with ThreadPoolExecutor(_SIMULTANEOUS, thread_name_prefix="exists") as executor, translate_errors(remote[0]):
            are_present = executor.map(_exists, remote)
            missing.update(uri for uri, is_present in zip(remote, are_present, strict=True) if not is_present)
    # fsspec treats `::` as the end of a first path, also when LightlyStudio reads the images.
    return missing | {uri for uri in uris if "::" in uri}


def _exists(uri: str) -> bool:
    filesystem, path = open_filesystem(uri)
    return bool(filesystem.exists(path))
