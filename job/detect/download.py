"""Downloads a file by its URL: whole or not at all, over encrypted connections, and with a limit of its size."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from job.errors import SettingsError
from job.progress import Progress
from job.retry import Attempt, Patience, TransientError, run_with_retries
from job.uris import is_protected, redact

MAX_BYTES = 10_000_000_000  # the largest checkpoints of detectron2's zoo have 2.7 GB
_PATIENCE = Patience(attempt=60)
_RETRY_SECONDS = 15.0


def download(url: str, path: Path, is_allowed: Callable[[str], bool]) -> None:
    """Downloads a file.

    Args:
        url: Its URL.
        path: Where to write it.
        is_allowed: Returns whether a URL that the server redirects to may be used.

    Raises:
        SettingsError: If the file is larger than `MAX_BYTES`.
        requests.RequestException: If the server refuses.
        TransientError: If the server cannot be reached.
        OSError: If the server redirects to a place that may not be used, or the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    def get(attempt: Attempt) -> None:
        _get(url, path, attempt, is_allowed)

    run_with_retries(get, patience=_PATIENCE, stop=threading.Event(), total=_RETRY_SECONDS)


def describe_error(error: Exception) -> str:
    """Describes why a download failed, without the text of requests' errors, which contains URLs with signatures."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server responded with status {error.response.status_code}"
    if isinstance(error, requests.RequestException):
        return type(error).__name__
    return str(error)


def _get(url: str, path: Path, attempt: Attempt, is_allowed: Callable[[str], bool]) -> None:
    def check_redirect(response: requests.Response, **_: Any) -> None:
        """Looks at an answer before requests follows it."""
        if not response.is_redirect:
            return
        target = urljoin(response.url, response.headers["Location"])
        if not is_protected(target) or (response.url.startswith("https:") and not target.startswith("https:")):
            raise OSError("the server redirects to a URL without https")
        if not is_allowed(target):
            raise OSError("the server redirects to a URL outside of detectron2's model zoo")

    # Each attempt has its own file, since an earlier attempt that timed out may still be writing.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    hooks = {"response": check_redirect}
    try:
        with (
            requests.get(url, stream=True, timeout=(10, 30), hooks=hooks) as response,
            temporary.open("wb") as file,
        ):
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise TransientError(f"the server responded with status {response.status_code}")
            response.raise_for_status()
            attempt.give_up = response.close
            size = _parse_size(response.headers.get("Content-Length", ""))
            _check_size(url, size)
            attempt.expect(size or 1 << 30)
            with Progress("Downloading the weights", size, "byte") as progress:
                for block in response.iter_content(1 << 20):  # raises on a truncated body
                    _check_size(url, file.tell() + len(block))
                    file.write(block)
                    progress.add(len(block))
        temporary.replace(path)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TransientError(type(error).__name__) from None
    finally:
        temporary.unlink(missing_ok=True)


def _parse_size(text: str) -> int:
    """Parses a Content-Length, in bytes; 0 if it is missing or not a number."""
    return int(text) if text.isdecimal() and text.isascii() else 0


def _check_size(url: str, size: int) -> None:
    if size > MAX_BYTES:
        raise SettingsError(
            f"The weights at {redact(url)} are larger than the limit of {MAX_BYTES / 1e9:,.0f} GB: correct the URL, or "
            "save the checkpoint without the state of the optimizer."
        )
