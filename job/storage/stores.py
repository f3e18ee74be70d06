"""The kinds of store: one record for each scheme of a URI.

A store's module, and with it the store's library, is imported when its first folder is opened.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from job.retry import Patience
from job.storage.base import Storage
from job.storage.rights import AZURE_RIGHTS, GOOGLE_RIGHTS, S3_RIGHTS, Rights
from job.uris import SCHEMES, Location


class Opener(Protocol):
    """Opens a folder of a store."""

    def __call__(
        self, location: Location, *, stop: threading.Event, patience: Patience, max_bytes: int | None
    ) -> Storage:
        """Opens a folder.

        Args:
            location: The folder.
            stop: When set, waiting for the store ends.
            patience: How long to try.
            max_bytes: Larger files are not read whole; None for no limit.
        """
        ...


@dataclass(frozen=True)
class Store:
    """One kind of store. There are no defaults, so that a new record cannot leave anything out.

    Attributes:
        scheme: Beginning of its URIs, one of `job.uris.SCHEMES`; empty for local folders.
        open: Opens a folder.
        rights: Names of its permissions; None if they belong to the user of the operating system.
        find_endpoint: Takes the environment variables and returns the URL of the server whose clock signed requests
            must agree with. Returns None if there is no such server, or if the variables do not lead to it.
    """

    scheme: str
    open: Opener
    rights: Rights | None
    find_endpoint: Callable[[Mapping[str, str]], str | None]


def _open_local(location: Location, *, stop: threading.Event, patience: Patience, max_bytes: int | None) -> Storage:
    from job.storage.local import LocalFolder

    return LocalFolder(location.path, stop=stop, patience=patience, max_bytes=max_bytes)


def _open_s3(location: Location, *, stop: threading.Event, patience: Patience, max_bytes: int | None) -> Storage:
    from job.storage.s3 import S3Folder

    return S3Folder(location.bucket, location.path, stop=stop, patience=patience, max_bytes=max_bytes)


def _open_google(location: Location, *, stop: threading.Event, patience: Patience, max_bytes: int | None) -> Storage:
    from job.storage.gcs_azure import CloudFolder, open_google

    bucket = open_google(location.bucket)
    return CloudFolder(location.normalized, bucket, location.path, stop=stop, patience=patience, max_bytes=max_bytes)


def _open_azure(location: Location, *, stop: threading.Event, patience: Patience, max_bytes: int | None) -> Storage:
    from job.storage.gcs_azure import CloudFolder, open_azure

    container = open_azure(location.bucket)
    return CloudFolder(location.normalized, container, location.path, stop=stop, patience=patience, max_bytes=max_bytes)


def _find_s3_endpoint(environment: Mapping[str, str]) -> str | None:
    import boto3
    import botocore.exceptions

    try:
        session = boto3.Session(region_name=environment.get("AWS_REGION") or None)
        return str(session.client("s3").meta.endpoint_url)
    except (botocore.exceptions.BotoCoreError, ValueError):
        return None  # opening a folder says what is wrong


def _find_azure_endpoint(environment: Mapping[str, str]) -> str | None:
    account = environment.get("AZURE_STORAGE_ACCOUNT_NAME")
    default = f"https://{account}.blob.core.windows.net" if account else None
    return environment.get("AZURE_STORAGE_ENDPOINT") or default


STORES = {
    store.scheme: store
    for store in (
        Store(
            scheme="",
            open=_open_local,
            rights=None,
            find_endpoint=lambda environment: None,
        ),
        Store(
            scheme="s3",
            open=_open_s3,
            rights=S3_RIGHTS,
            find_endpoint=_find_s3_endpoint,
        ),
        Store(
            scheme="gs",
            open=_open_google,
            rights=GOOGLE_RIGHTS,
            find_endpoint=lambda environment: "https://storage.googleapis.com",
        ),
        Store(
            scheme="az",
            open=_open_azure,
            rights=AZURE_RIGHTS,
            find_endpoint=_find_azure_endpoint,
        ),
    )
}
if STORES.keys() != {"", *SCHEMES}:
    raise RuntimeError(f"The stores {sorted(STORES)} are not those of job.uris.SCHEMES, {SCHEMES}.")
