"""Lists and reads of S3 objects by obstore, which takes a fraction of the processor time that boto3 takes.

It is an optimist: whatever is not plainly right it leaves to boto3, which knows credentials, redirections, odd keys and
the names of errors. So this module decides nothing.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from job.storage.base import MD5, Entry

logger = logging.getLogger(__name__)

_AMAZON = re.compile(r"https://s3\.([a-z0-9-]+\.)?amazonaws\.com(\.cn)?")
_LONGEST_SECONDS = 10.0  # nothing interrupts it, and a job that is asked to stop has 20
_FAILURES = 3
_PAUSE_SECONDS = 30.0


class FastError(Exception):
    """boto3 is to be asked."""


class FastReader:
    """Lists objects, and reads those whose ETag proves that what came is what is stored.

    Args:
        session: Gives the credentials.
        client: boto3's client, which knows the endpoint and the region.
        bucket: Name of the bucket.
        unsigned: Whether requests are not signed.
        payer: Whether the requester pays.
        seconds: How long a request may take.
    """

    def __init__(
        self, session: boto3.Session, client: Any, bucket: str, *, unsigned: bool, payer: bool, seconds: float
    ) -> None:
        self._arguments = (session, client, bucket)
        self._unsigned, self._payer, self._seconds = unsigned, payer, seconds
        self._store: S3Store | None = None
        self._failures, self._paused_until = 0, 0.0

    def list(self, prefix: str) -> Iterator[Entry]:
        """Yields the objects whose keys begin with a prefix, which ends in ``/`` or is empty.

        Raises:
            FastError: Something is odd; what came until then may be repeated by boto3.
        """
        if time.monotonic() < self._paused_until:
            raise FastError
        try:
            for page in obstore.list(self._opened(), prefix=prefix or None, chunk_size=1000):
                for each in page:
                    yield Entry(each["path"], str(each["e_tag"] or "").strip('"'), each["size"])
        except (BaseError, OSError, ValueError, botocore.exceptions.BotoCoreError) as error:
            raise FastError from error

    def read(self, key: str, etag: str | None) -> bytes:
        """The content of an object.

        Args:
            key: Of the object.
            etag: That it must have, if known.

        Raises:
            FastError: It is not there, or not plainly right.
        """
        if (etag and not MD5.fullmatch(etag)) or key.endswith("/") or time.monotonic() < self._paused_until:
            raise FastError
        try:
            result = obstore.get(self._opened(), key)
            data = result.bytes().to_bytes()
            given = (result.meta["e_tag"] or "").strip('"')
        except (FileNotFoundError, ValueError, PermissionError) as error:  # obstore cannot name every key
            raise FastError from error
        except (BaseError, OSError, botocore.exceptions.BotoCoreError) as error:
            self._failed(type(error).__name__)
            raise FastError from error
        if etag and given != etag:
            raise FastError
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != given:
            self._failed("the ETag is not the MD5 of the content")
            raise FastError
        self._failures = 0
        return data

    def _opened(self) -> S3Store:
        if self._store is None:
            self._store = self._build()
        return self._store

    def _failed(self, reason: str) -> None:
        """Counts; after some in a row the attempts pause, since each costs a request of its own."""
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            logger.debug("Reading by boto3 alone for %.0f s: %s.", _PAUSE_SECONDS, reason)

    def _build(self) -> S3Store:
        session, client, bucket = self._arguments
        endpoint: str = client.meta.endpoint_url
        ours: dict[str, Any] = {"request_payer": self._payer, "skip_signature": self._unsigned}
        options: Any = {
            "timeout": timedelta(seconds=min(self._seconds, _LONGEST_SECONDS)),
            "connect_timeout": timedelta(seconds=5),
        }
        if _AMAZON.fullmatch(endpoint):
            ours["region"] = _region(client, bucket)
        else:
            ours |= {"endpoint": endpoint, "region": client.meta.region_name, "virtual_hosted_style_request": False}
            options["allow_http"] = endpoint.startswith("http://")
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = Path(bundle).read_bytes()
        if not self._unsigned:
            # botocore renews credentials well ahead of their end; they are asked for often enough to notice.
            ours["credential_provider"] = Boto3CredentialProvider(session, ttl=timedelta(minutes=5))
        return S3Store(bucket, client_options=options, retry_config={"max_retries": 0}, **ours)


def _region(client: Any, bucket: str) -> str:
    """Where a bucket lies; boto3 follows Amazon's redirections, but obstore does not."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except botocore.exceptions.ClientError as error:  # the answer tells it even where it refuses
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or client.meta.region_name)
