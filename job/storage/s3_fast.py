"""Listing and reading S3 objects by obstore, which takes a fraction of the processor time of boto3.

Every result that is not clearly right is left to boto3, which handles all credentials, redirections and keys, and
explains errors. So no decision is made here.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from job.secret import hide
from job.storage.base import MD5, Entry

if TYPE_CHECKING:
    from obstore.store import S3Credential  # exists for type checkers alone

logger = logging.getLogger(__name__)

_AMAZON = re.compile(r"https://s3\.([a-z0-9-]+\.)?amazonaws\.com(\.cn)?")
_MAX_SECONDS = 10.0  # nothing interrupts a request, and a job that is asked to stop has 20
_MAX_FAILURES = 3
_PAUSE_SECONDS = 30.0


class FastError(Exception):
    """Asks the caller to use boto3."""


class _Credentials(Boto3CredentialProvider):
    """The credentials of boto3, from files and roles, too; no log line shows them."""

    def __call__(self) -> "S3Credential":
        """Returns the present credentials."""
        found = super().__call__()
        for secret in (found["secret_access_key"], found.get("token")):
            hide(secret or "")
        return found


class FastReader:
    """Lists objects, and reads those whose ETag proves that the content is right.

    Args:
        session: Source of the credentials.
        client: boto3's client, for the endpoint and the region.
        bucket: Name of the bucket.
        unsigned: Whether requests are not signed.
        payer: Whether the requester pays.
        seconds: Limit of one request, in seconds; at most 10 are used.
    """

    def __init__(
        self, session: boto3.Session, client: Any, bucket: str, *, unsigned: bool, payer: bool, seconds: float
    ) -> None:
        self._arguments = (session, client, bucket)
        self._unsigned, self._payer, self._seconds = unsigned, payer, seconds
        self._store: S3Store | None = None
        self._failures, self._paused_until = 0, 0.0

    def list(self, prefix: str) -> Iterator[list[Entry]]:
        """Yields pages of the objects whose keys begin with a prefix, which ends in ``/`` or is empty.

        Raises:
            FastError: If boto3 must list them instead. Pages may have been yielded before.
        """
        if time.monotonic() < self._paused_until:
            raise FastError
        # Some servers begin again and again. In an endless listing, a key that is remembered now and then comes again.
        remembered, count, next_count = "", 0, 1
        try:
            for page in obstore.list(self._opened(), prefix=prefix or None, chunk_size=1000):
                if any(item["path"] == remembered for item in page):
                    raise FastError
                count += len(page)
                if count >= next_count:
                    remembered, next_count = page[-1]["path"], 2 * count
                yield [Entry(item["path"], str(item["e_tag"] or "").strip('"'), item["size"]) for item in page]
        except (BaseError, OSError, ValueError, botocore.exceptions.BotoCoreError) as error:
            raise FastError from error

    def read(self, key: str, etag: str | None, max_bytes: int | None = None) -> bytes:
        """Reads a whole object.

        Args:
            key: Key of the object.
            etag: ETag that the object must have, if known.
            max_bytes: Most bytes that the object may have; None for no limit.

        Raises:
            FastError: If the object does not exist or is not as required, or if the content is not clearly right.
        """
        if (etag and not MD5.fullmatch(etag)) or key.endswith("/") or time.monotonic() < self._paused_until:
            raise FastError
        try:
            result = obstore.get(self._opened(), key)
            current = (result.meta["e_tag"] or "").strip('"')
            if (etag and current != etag) or (max_bytes is not None and result.meta["size"] > max_bytes):
                raise FastError
            data = result.bytes().to_bytes()
        except (FileNotFoundError, ValueError, PermissionError) as error:  # obstore cannot name every key
            raise FastError from error
        except (BaseError, OSError, botocore.exceptions.BotoCoreError) as error:
            self._count_failure(type(error).__name__)
            raise FastError from error
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != current:
            self._count_failure("the ETag is not the MD5 of the content")
            raise FastError
        self._failures = 0
        return data

    def _opened(self) -> S3Store:
        if self._store is None:
            self._store = self._build()
        return self._store

    def _count_failure(self, reason: str) -> None:
        """Counts failures in a row. After some, the attempts pause, since each costs a request of its own."""
        self._failures += 1
        if self._failures >= _MAX_FAILURES:
            self._failures = 0
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            logger.debug("Reading only by boto3 for %.0f s: %s.", _PAUSE_SECONDS, reason)

    def _build(self) -> S3Store:
        session, client, bucket = self._arguments
        endpoint: str = client.meta.endpoint_url
        arguments: dict[str, Any] = {"request_payer": self._payer, "skip_signature": self._unsigned}
        options: Any = {
            "timeout": timedelta(seconds=min(self._seconds, _MAX_SECONDS)),
            "connect_timeout": timedelta(seconds=5),
        }
        if _AMAZON.fullmatch(endpoint):
            arguments["region"] = _find_region(client, bucket)
        else:
            arguments |= {"endpoint": endpoint, "region": client.meta.region_name}
            arguments["virtual_hosted_style_request"] = False
            options["allow_http"] = endpoint.startswith("http://")
        if bundle := os.environ.get("AWS_CA_BUNDLE"):
            options["root_certificate"] = Path(bundle).read_bytes()
        if not self._unsigned:
            # botocore renews credentials well before they expire: every five minutes, the new ones are seen in time.
            arguments["credential_provider"] = _Credentials(session, ttl=timedelta(minutes=5))
        return S3Store(bucket, client_options=options, retry_config={"max_retries": 0}, **arguments)


def _find_region(client: Any, bucket: str) -> str:
    """Asks for the region of a bucket: boto3 follows Amazon's redirections, but obstore does not."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except botocore.exceptions.ClientError as error:  # a refusal names the region, too
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or client.meta.region_name)
