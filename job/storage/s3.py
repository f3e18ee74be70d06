"""S3 and whatever speaks its API, by boto3: its credentials, its endpoints, its names for what went wrong.

Variables of the environment: all of boto3's (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_CA_BUNDLE, ...), and as in GDAL and
other tools AWS_REGION, AWS_REQUEST_PAYER=requester, and AWS_NO_SIGN_REQUEST=YES for public buckets.
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

from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, one_line
from job.retry import Attempt, CorruptError, Patience, Requests, TransientError
from job.storage.base import MD5, Entry, keep_all
from job.storage.s3_fast import FastError, FastReader

T = TypeVar("T")

_CONNECTIONS = 64
# The limit of one request is 5 GB; parts of a larger object become visible together, when the last one is there.
_ONE_REQUEST = 1 << 30

_RIGHTS = {
    "list_objects_v2": "s3:ListBucket",
    "head_object": "s3:GetObject",
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "delete_object": "s3:DeleteObject",
}
_BAD_CREDENTIALS = {
    "AuthFailure", "ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
}  # fmt: skip
_PASSING = {"BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}
_NO_CREDENTIALS = (
    aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.SSOError,
    aws.TokenRetrievalError, aws.RefreshWithMFAUnsupportedError,
)  # fmt: skip
_WRONG_SETTINGS = (
    aws.ParamValidationError, aws.InvalidRegionError, aws.EndpointProviderError, aws.NoRegionError,
    aws.UnsupportedS3ConfigurationError, aws.InvalidS3AddressingStyleError,
)  # fmt: skip


class S3Folder:
    """A folder of an S3 bucket; `job.storage.base.Storage` says what its methods do.

    Args:
        bucket: Name of the bucket.
        folder: Key prefix without the last ``/``; empty for the whole bucket.
        stop: When set, reading ends.
        patience: How long to try.

    Attributes:
        uri: ``s3://bucket/folder``.

    Raises:
        SettingsError: AWS's own variables or configuration files are wrong.
    """

    def __init__(self, bucket: str, folder: str, *, stop: threading.Event, patience: Patience) -> None:
        self.uri = f"s3://{bucket}" + (f"/{folder}" if folder else "")
        self._bucket, self._prefix = bucket, folder + "/" if folder else ""
        self._requests = Requests(patience, stop)
        unsigned = os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() in ("yes", "true", "1")
        payer = os.environ.get("AWS_REQUEST_PAYER", "").lower() == "requester"
        self._payer = {"RequestPayer": "requester"} if payer else {}  # goes into each request
        try:
            session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
            self._client: Any = session.client("s3", config=_config(unsigned, patience))
        except (aws.BotoCoreError, ValueError) as error:
            raise SettingsError(f"{self.uri} cannot be used: {error}.") from None
        self._fast = FastReader(session, self._client, bucket, unsigned=unsigned, payer=payer, seconds=patience.attempt)

    def list(self, prefix: str = "", keep: Callable[[str], bool] = keep_all) -> Iterator[Entry]:
        """Yields the objects below the folder; some of them twice when obstore gave up half-way."""
        with contextlib.suppress(FastError):
            for each in self._fast.list(self._prefix + prefix):
                if keep(key := each.key.removeprefix(self._prefix)):
                    if not each.size:  # perhaps a folder's empty marker: obstore drops the slash at the end of its name
                        raise FastError
                    yield Entry(key, each.etag, each.size)
            return
        yield from self._listed(prefix, keep)

    def _listed(self, prefix: str, keep: Callable[[str], bool]) -> Iterator[Entry]:
        arguments: dict[str, Any] = {"Prefix": self._prefix + prefix}
        while True:
            page = self._call("list_objects_v2", **arguments)
            for each in page.get("Contents", ()):
                if keep(key := each["Key"].removeprefix(self._prefix)):
                    yield Entry(key, each.get("ETag", "").strip('"'), each["Size"])
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def stat(self, key: str) -> Entry | None:
        """The entry of one object."""
        try:
            found = self._call("head_object", Key=self._prefix + key)
        except FileNotFoundError:
            return None
        return Entry(key, found["ETag"].strip('"'), found["ContentLength"])

    def read(self, key: str, etag: str | None = None) -> bytes:
        """The whole content of an object."""
        with contextlib.suppress(FastError, TransientError):
            return self._requests.send(lambda attempt: self._fast.read(self._prefix + key, etag), once=True)
        return self._read(key, etag)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Some bytes of an object."""
        return self._read(key, None, Range=f"bytes={start}-{start + length - 1}")

    def write(self, key: str, data: bytes) -> None:
        """Writes an object."""
        name = self._prefix + key
        if len(data) <= _ONE_REQUEST:
            digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
            self._call("put_object", len(data), Key=name, Body=data, ContentMD5=digest)
            return
        config = TransferConfig(multipart_threshold=_ONE_REQUEST, multipart_chunksize=1 << 26)

        def upload(attempt: Attempt) -> None:
            attempt.expect(len(data))
            self._client.upload_fileobj(io.BytesIO(data), self._bucket, name, ExtraArgs=self._payer, Config=config)

        self._ending("put_object", upload)

    def delete(self, key: str) -> None:
        """Removes an object."""
        with contextlib.suppress(FileNotFoundError):  # Amazon does not mind, but others do
            self._call("delete_object", Key=self._prefix + key)

    def _call(self, method: str, size: int = 0, **arguments: Any) -> Any:
        """Calls a method of the client that moves so many bytes; failures end the job."""

        def call(attempt: Attempt) -> Any:
            attempt.expect(size)
            return getattr(self._client, method)(Bucket=self._bucket, **self._payer, **arguments)

        return self._ending(method, call)

    def _ending(self, method: str, function: Callable[[Attempt], T]) -> T:
        """Sends requests whose failure concerns the whole bucket, and so ends the job."""
        try:
            return self._send(method, function)
        except TransientError as error:
            raise ServiceUnavailable(f"{self.uri} cannot be reached ({error}).") from None
        except PermissionError as error:
            raise AccessDenied(f"{self.uri}: {error.strerror}.") from None

    def _read(self, key: str, etag: str | None, **arguments: Any) -> bytes:
        """Reads by boto3; failures concern the object, unless the store does not answer at all."""

        def get(attempt: Attempt) -> bytes:
            response = self._client.get_object(
                Bucket=self._bucket, Key=self._prefix + key, **self._payer, **arguments
            )  # fmt: skip
            given = response["ETag"].strip('"')
            with contextlib.closing(response["Body"]) as body:
                attempt.give_up = lambda: _cut_off(body)
                if etag and given != etag:
                    raise OSError(errno.ESTALE, "it has changed since the listing")
                attempt.expect(response["ContentLength"])
                data: bytes = body.read()  # checks its length, and its checksum if the store has one
            whole = "Range" not in arguments and _is_md5(given, response)
            if whole and hashlib.md5(data, usedforsecurity=False).hexdigest() != given:
                raise CorruptError("the content does not fit the ETag")
            return data

        try:
            return self._send("get_object", get)
        except CorruptError as error:
            raise OSError(errno.EIO, f"{error}, time and again") from None
        except TransientError as error:
            # Is it this object, or the whole store? An outage must end the job, or every image would count as failed.
            self._call("list_objects_v2", MaxKeys=1, Prefix=self._prefix)
            raise OSError(errno.EIO, f"the store lists it but does not give it ({error})") from None

    def _send(self, method: str, function: Callable[[Attempt], T]) -> T:
        def translating(attempt: Attempt) -> T:
            try:
                return function(attempt)
            except (aws.ClientError, aws.BotoCoreError, urllib3.exceptions.HTTPError) as error:
                raise self._translated(error, method) from None

        return self._requests.send(translating)

    def _translated(self, error: Exception, method: str) -> Exception:
        """What an error of boto3 means to the job. Only codes are shown: texts may quote the request."""
        if isinstance(error, _NO_CREDENTIALS):
            return AccessDenied(
                f"{self.uri}: there are no usable AWS credentials ({type(error).__name__}). Set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, a profile or a role; for a public bucket set AWS_NO_SIGN_REQUEST=YES."
            )
        if isinstance(error, _WRONG_SETTINGS):
            return SettingsError(f"{self.uri} cannot be used: {one_line(error)}")
        if isinstance(error, aws.FlexibleChecksumError):
            return CorruptError("the content does not fit its checksum")
        if not isinstance(error, aws.ClientError):
            return TransientError(type(error).__name__)
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return self._of_code(code, status, method)

    def _of_code(self, code: str, status: int, method: str) -> Exception:
        if status >= 500 or status in (408, 429) or code in _PASSING:
            return TransientError(f"{status} {code}")
        if code in _BAD_CREDENTIALS:
            hint = "set the clock" if code == "RequestTimeTooSkewed" else "renew or correct them"
            return AccessDenied(f"{self.uri}: the store does not accept the credentials ({code}): {hint}.")
        if code == "NoSuchBucket" or (status == 404 and method == "list_objects_v2"):
            return SettingsError(f"{self.uri}: there is no such bucket.")
        if status == 404:
            return FileNotFoundError(errno.ENOENT, "there is no such object")
        if code == "InvalidObjectState":
            return OSError(errno.EIO, "it lies in an archive: restore it first")
        if status == 403:
            right = _RIGHTS[method]
            reason = f"the permission {right} is missing (the store answers {status} {code})"
            return PermissionError(errno.EACCES, reason)
        if status == 400 and method == "head_object":  # the answer has no body to tell more
            return AccessDenied(f"{self.uri}: the store refuses the request (400), as it does with an expired token.")
        if status in (301, 307):
            return SettingsError(f"{self.uri}: the bucket lies in another region: set AWS_REGION.")
        if method == "get_object":
            return OSError(errno.EIO, f"the store answers {status} {code}")
        return JobError(f"{self.uri}: the store answers {status} {code} to {method}.")


def _config(unsigned: bool, patience: Patience) -> Config:
    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},  # `run_with_retries` does it
        connect_timeout=min(5.0, patience.attempt),
        read_timeout=patience.attempt,
        tcp_keepalive=True,
        max_pool_connections=_CONNECTIONS,
        # Older servers refuse the newer checksums; every one knows Content-MD5, which `write` sends.
        request_checksum_calculation="when_required",
        signature_version=UNSIGNED if unsigned else None,
    )


def _cut_off(body: Any) -> None:
    """Ends the waiting for the rest of a body, from another thread."""
    with contextlib.suppress(Exception):  # it may just have ended by itself
        body._raw_stream.shutdown()


def _is_md5(etag: str, response: dict[str, Any]) -> bool:
    """Whether an ETag is the MD5 of the content; it is not for multipart uploads and for keys of one's own."""
    by_kms = str(response.get("ServerSideEncryption", "")).startswith("aws:kms")
    encrypted = by_kms or "SSECustomerAlgorithm" in response
    unwanted = os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "").lower() == "when_required"
    return bool(MD5.fullmatch(etag)) and not encrypted and not unwanted
