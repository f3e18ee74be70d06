"""S3 and other stores with its API, by boto3, which gives credentials, endpoints and error codes.

Environment variables: all of boto3's (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_CA_BUNDLE, ...). As in GDAL and other tools,
also AWS_REGION, AWS_REQUEST_PAYER=requester, and AWS_NO_SIGN_REQUEST=YES for public buckets.
"""

import base64
import contextlib
import errno
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import boto3
import botocore.exceptions as aws
import urllib3
from boto3.s3.transfer import TransferConfig
from botocore import UNSIGNED
from botocore.config import Config

from job.errors import AccessDenied, ServiceUnavailable, SettingsError
from job.retry import Attempt, CorruptError, Patience, Requests, TransientError
from job.spool import Spool
from job.storage.base import MD5, Content, Entry, keep_all, name_for_keep, refuse_size
from job.storage.s3_errors import CredentialsError, deny_credentials, translate
from job.storage.s3_fast import FastError, FastReader
from job.uris import redact

T = TypeVar("T")

_MAX_CONNECTIONS = 64
# Bytes; S3's own limit is 5 GB. Parts of a larger object become visible together, after the last one.
_MAX_REQUEST = 1 << 30
_BLOCK = 1 << 20  # bytes
_MAX_EMPTY = 100  # empty objects of one listing that are asked about; for more, boto3's whole listing is cheaper


class S3Folder:
    """A folder of an S3 bucket; `job.storage.base.Storage` describes the methods.

    Args:
        bucket: Name of the bucket.
        folder: Key prefix without the last ``/``; empty for the whole bucket.
        stop: When set, waiting for the store ends.
        patience: How long to try.
        max_bytes: Larger objects are not read whole; None for no limit.

    Attributes:
        uri: URI of the folder, as in ``s3://bucket/folder``.

    Raises:
        SettingsError: If AWS's own variables or configuration files are wrong.
    """

    def __init__(
        self, bucket: str, folder: str, *, stop: threading.Event, patience: Patience, max_bytes: int | None = None
    ) -> None:
        self.uri = f"s3://{bucket}" + (f"/{folder}" if folder else "")
        self._bucket, self._prefix = bucket, folder + "/" if folder else ""
        self._requests = Requests(patience, stop)
        self._max_bytes = max_bytes
        unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "1")
        payer = os.environ.get("AWS_REQUEST_PAYER", "").lower() == "requester"
        self._payer = {"RequestPayer": "requester"} if payer else {}  # part of each request
        try:
            session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
            self._client: Any = session.client("s3", config=_make_config(unsigned, patience))
        except (aws.BotoCoreError, ValueError) as error:
            raise SettingsError(f"{self.uri} cannot be used: {error}.") from None
        self._fast = FastReader(session, self._client, bucket, unsigned=unsigned, payer=payer, seconds=patience.attempt)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the objects below the folder; some of them twice if obstore gives up halfway."""
        self._list_page(
            MaxKeys=1, Prefix=self._prefix + prefix
        )  # an error of the store is told before anything is listed
        num_empty, last = 0, ""
        with contextlib.suppress(FastError):
            for page in self._fast.list(self._prefix + prefix):
                last = page[-1].key if page else last
                entries: list[Entry] = []
                for entry in page:
                    key = entry.key.removeprefix(self._prefix)
                    if not keep(name_for_keep(key, entry.size)):
                        continue
                    if entry.size:
                        entries.append(Entry(key, entry.etag, entry.size))
                        continue
                    num_empty += 1
                    if num_empty > _MAX_EMPTY:
                        raise FastError
                    entries += self._find_empty(entry.key, self._prefix + prefix, keep)
                yield from entries
            if self._ends_at(last, self._prefix + prefix):
                return
        yield from self._list_by_boto3(prefix, keep)

    def _ends_at(self, last: str, prefix: str) -> bool:
        """Returns whether a listing has nothing after a key: obstore takes any answer for the end of a listing."""
        after = {"StartAfter": last} if last else {}
        items = self._list_page(MaxKeys=2, Prefix=prefix, **after).get("Contents", ())
        return all(item["Key"] == last + "/" for item in items)  # the marker of a folder, whose slash obstore drops

    def _find_empty(self, path: str, prefix: str, keep: Callable[[str], bool]) -> Iterator[Entry]:
        """Yields the empty objects behind a path of obstore, which drops the slash at the end of a folder's marker."""
        for name in (path, path + "/"):
            if not name.startswith(prefix):  # of the marker of the folder itself
                continue
            for item in self._list_page(MaxKeys=1, Prefix=name).get("Contents", ()):
                if item["Key"] == name and not item["Size"] and (name == path or keep(self._entry(item).key)):
                    yield self._entry(item)

    def _list_by_boto3(self, prefix: str, keep: Callable[[str], bool]) -> Iterator[Entry]:
        arguments: dict[str, Any] = {"Prefix": self._prefix + prefix}
        tokens: set[str] = set()
        while True:
            page = self._list_page(**arguments)
            for item in page.get("Contents", ()):
                if keep((entry := self._entry(item)).key):
                    yield entry
            if not page.get("IsTruncated"):
                return
            token = arguments["ContinuationToken"] = page["NextContinuationToken"]
            if token in tokens:
                raise ServiceUnavailable(
                    f"{self.uri}: the listing of the store has no end, since it repeats a continuation token. Set "
                    "CORAL_INPUT to a list of files, or use another server."
                )
            tokens.add(token)

    def _list_page(self, **arguments: Any) -> Any:
        """Requests one page of a listing.

        Raises:
            ServiceUnavailable: If the answer is not a listing, or goes on without saying how.
        """

        def call(attempt: Attempt) -> Any:
            page = self._client.list_objects_v2(Bucket=self._bucket, **self._payer, **arguments)
            if "IsTruncated" not in page:  # such as the error page of a gateway, or nothing
                raise TransientError("its answer is not a listing")
            return page

        page = self._send_or_end("list_objects_v2", call)
        if page["IsTruncated"] and not page.get("NextContinuationToken"):
            raise ServiceUnavailable(
                f"{self.uri}: the store says that its listing goes on, but gives no continuation token. Set "
                "CORAL_INPUT to a list of files, or use another server."
            )
        return page

    def _entry(self, item: dict[str, Any]) -> Entry:
        return Entry(item["Key"].removeprefix(self._prefix), item.get("ETag", "").strip('"'), item["Size"])

    def stat(self, key: str) -> Entry | None:
        """Returns the entry of one object."""
        try:
            head = self._call("head_object", Key=self._prefix + key)
        except FileNotFoundError:
            return None
        if "ContentLength" in head:
            return Entry(key, head.get("ETag", "").strip('"'), head["ContentLength"])
        items = self._list_page(MaxKeys=1, Prefix=self._prefix + key).get("Contents", ())
        return next((self._entry(item) for item in items if item["Key"] == self._prefix + key), None)

    def read(self, key: str, etag: str | None = None) -> bytes:
        """Reads a whole object."""
        with contextlib.suppress(FastError):
            data = self._fast.read(self._prefix + key, etag, self._max_bytes)
            self._requests.has_answer = True
            return data
        return self._read_by_boto3(key, etag)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Reads a part of an object."""
        return self._read_by_boto3(key, None, Range=f"bytes={start}-{start + length - 1}")

    def write(self, key: str, data: Content) -> None:
        """Writes an object."""
        name = self._prefix + key
        if len(data) <= _MAX_REQUEST:
            md5 = hashlib.md5(usedforsecurity=False)
            for block in data.blocks() if isinstance(data, Spool) else (data,):
                md5.update(block)
            digest = base64.b64encode(md5.digest()).decode()

            def put(attempt: Attempt) -> None:
                attempt.expect(len(data))
                body = data.open() if isinstance(data, Spool) else data
                self._client.put_object(Bucket=self._bucket, Key=name, Body=body, ContentMD5=digest, **self._payer)

            self._send_or_end("put_object", put)
            return
        config = TransferConfig(multipart_threshold=_MAX_REQUEST, multipart_chunksize=1 << 26)

        def upload(attempt: Attempt) -> None:
            attempt.expect(len(data))
            body = data.open() if isinstance(data, Spool) else io.BytesIO(data)
            self._client.upload_fileobj(body, self._bucket, name, ExtraArgs=self._payer, Config=config)

        self._send_or_end("put_object", upload)

    def delete(self, key: str) -> None:
        """Deletes an object."""
        with contextlib.suppress(FileNotFoundError):  # from stores other than Amazon's
            self._call("delete_object", Key=self._prefix + key)

    def _call(self, method: str, **arguments: Any) -> Any:
        """Calls a method of the client; failures end the job."""

        def call(attempt: Attempt) -> Any:
            return getattr(self._client, method)(Bucket=self._bucket, **self._payer, **arguments)

        return self._send_or_end(method, call)

    def _send_or_end(self, method: str, function: Callable[[Attempt], T]) -> T:
        """Sends requests whose failure concerns the whole bucket and therefore ends the job."""
        try:
            return self._send(method, function)
        except TransientError as error:
            raise ServiceUnavailable(f"{self.uri} cannot be reached ({error}).") from None
        except PermissionError as error:
            raise AccessDenied(f"{self.uri}: {error.strerror}.") from None

    def _read_by_boto3(self, key: str, etag: str | None, **arguments: Any) -> bytes:
        """Reads an object. Failures concern this object alone, unless the store does not answer at all."""

        def get(attempt: Attempt) -> bytes:
            response = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + key, **self._payer, **arguments
            )  # fmt: skip
            current = response.get("ETag", "").strip('"') or etag or ""
            limit = None if "Range" in arguments else self._max_bytes
            with contextlib.closing(response["Body"]) as body:
                attempt.give_up = lambda: _shut_down(body)
                if etag and current != etag:
                    raise OSError(errno.ESTALE, "it has changed since the listing")
                if "ContentLength" in response:
                    refuse_size(response["ContentLength"], limit)
                    attempt.expect(response["ContentLength"])
                    data: bytes = body.read()  # checks its length, and its checksum if the store has one
                else:
                    data = _read_unknown_length(body, limit, attempt)
            comparable = "Range" not in arguments and _is_md5(current, response)
            if comparable and hashlib.md5(data, usedforsecurity=False).hexdigest() != current:
                raise CorruptError("the content does not match the ETag")
            return data

        try:
            return self._send("get_object", get)
        except CorruptError as error:
            raise OSError(errno.EIO, f"{error}, repeatedly") from None
        except TransientError as error:
            # An outage of the whole store must end the job; otherwise every image would count as failed.
            self._list_page(MaxKeys=1, Prefix=self._prefix)
            raise OSError(errno.EIO, f"it is listed but cannot be read ({error})") from None

    def _send(self, method: str, function: Callable[[Attempt], T]) -> T:
        """Sends requests.

        Raises:
            AccessDenied: If the credentials are refused, or their source still fails after all attempts.
        """

        def translating(attempt: Attempt) -> T:
            try:
                return function(attempt)
            except (aws.ClientError, aws.BotoCoreError, urllib3.exceptions.HTTPError) as error:
                endpoint = redact(self._client.meta.endpoint_url)
                has_answer = self._requests.has_answer
                raise translate(error, method, self.uri, endpoint=endpoint, has_answer=has_answer) from None

        try:
            return self._requests.send(translating)
        except CredentialsError as error:
            raise deny_credentials(self.uri, str(error)) from None


def _make_config(unsigned: bool, patience: Patience) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # `run_with_retries` retries
        connect_timeout=min(5.0, patience.attempt),
        read_timeout=patience.attempt,
        tcp_keepalive=True,
        max_pool_connections=_MAX_CONNECTIONS,
        # Older servers refuse the newer checksums; all of them accept Content-MD5, which `write` sends.
        request_checksum_calculation="when_required",
        signature_version=UNSIGNED if unsigned else None,
    )


def _read_unknown_length(body: Any, limit: int | None, attempt: Attempt) -> bytes:
    """Reads a body whose length the store does not give, as gateways do; raises what `refuse_size` raises."""
    blocks, size = [], 0
    while block := body.read(_BLOCK):
        blocks.append(block)
        size += len(block)
        refuse_size(size, limit)
        attempt.expect(len(block))
    return b"".join(blocks)


def _shut_down(body: Any) -> None:
    """Ends another thread's wait for the rest of a body."""
    with contextlib.suppress(Exception):  # the body may have just ended
        body._raw_stream.shutdown()


def _is_md5(etag: str, response: dict[str, Any]) -> bool:
    """Returns whether an ETag is the MD5 of the content. It is not for multipart uploads and customer keys."""
    by_kms = str(response.get("ServerSideEncryption", "")).startswith("aws:kms")
    encrypted = by_kms or "SSECustomerAlgorithm" in response
    unwanted = os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "").lower() == "when_required"
    return bool(MD5.fullmatch(etag)) and not encrypted and not unwanted
