"""Converts errors of boto3 into those of the job."""

import errno

import botocore.exceptions as aws

from job.errors import AccessDenied, ServiceUnavailable, SettingsError, one_line
from job.retry import CorruptError, TransientError
from job.storage.rights import S3_RIGHTS

RIGHTS = {
    "list_objects_v2": S3_RIGHTS.list,
    "head_object": S3_RIGHTS.read,
    "get_object": S3_RIGHTS.read,
    "put_object": S3_RIGHTS.write,
    "delete_object": S3_RIGHTS.delete,
}
_BAD_CREDENTIALS = {
    "AuthFailure", "ExpiredToken", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
}  # fmt: skip
_TRANSIENT = {"BadDigest", "IncompleteBody", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling"}
_NO_CREDENTIALS = (
    aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError, aws.SSOError,
    aws.TokenRetrievalError, aws.RefreshWithMFAUnsupportedError,
)  # fmt: skip
_NO_CONNECTION = (aws.ConnectionError, aws.HTTPClientError)
_WRONG_SETTINGS = (
    aws.ParamValidationError, aws.InvalidRegionError, aws.EndpointProviderError, aws.NoRegionError,
    aws.UnsupportedS3ConfigurationError, aws.InvalidS3AddressingStyleError,
)  # fmt: skip


class CredentialsError(TransientError):
    """The source of the credentials fails, but it has worked before."""


def deny_credentials(uri: str, reason: str) -> AccessDenied:
    """Makes the error of a run without usable credentials."""
    return AccessDenied(
        f"{uri}: there are no usable AWS credentials ({reason}). Set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, a profile or a role; for a public bucket set AWS_NO_SIGN_REQUEST=YES."
    )


def translate(error: Exception, method: str, uri: str, *, endpoint: str, has_answer: bool) -> Exception:
    """Converts an error of boto3. Only codes are shown: texts may quote the request.

    Args:
        error: The error.
        method: Method of the client that raised it.
        uri: Place of the files, in the form that is shown.
        endpoint: Address of the server, in the form that is shown.
        has_answer: Whether the server has answered a request of this process.
    """
    if isinstance(error, _NO_CREDENTIALS):
        # A source that has worked in this run, such as a metadata service, may only be restarting.
        reason = type(error).__name__
        return CredentialsError(reason) if has_answer else deny_credentials(uri, reason)
    if isinstance(error, _WRONG_SETTINGS):
        return SettingsError(f"{uri} cannot be used: {one_line(error)}")
    if isinstance(error, aws.FlexibleChecksumError):
        return CorruptError("the content does not match its checksum")
    if not isinstance(error, aws.ClientError):
        # Who cannot be reached is what is needed most; the texts of boto3 may quote a signed request.
        at = f" at {endpoint}" if isinstance(error, _NO_CONNECTION) else ""
        return TransientError(type(error).__name__ + at)
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _translate_code(code, status, method, uri)


def _translate_code(code: str, status: int, method: str, uri: str) -> Exception:
    if status >= 500 or status in (408, 429) or code in _TRANSIENT:
        return TransientError(f"{status} {code}")
    if code in _BAD_CREDENTIALS:
        hint = "correct the clock of this machine" if code == "RequestTimeTooSkewed" else "renew or correct them"
        return AccessDenied(f"{uri}: the store does not accept the credentials ({code}): {hint}.")
    if code == "NoSuchBucket" or (status == 404 and method == "list_objects_v2"):
        return SettingsError(f"{uri}: there is no such bucket.")
    if status == 404:
        return FileNotFoundError(errno.ENOENT, "there is no such object")
    if code == "InvalidObjectState":
        return OSError(errno.EIO, "the object is archived (Glacier): restore it first")
    if status == 403:
        right = RIGHTS[method]
        reason = f"the permission {right} is missing (the store answered {status} {code})"
        return PermissionError(errno.EACCES, reason)
    if status == 400 and method == "head_object":  # the answer has no body with a code
        return AccessDenied(f"{uri}: the store refused the request (400): the token may have expired.")
    if status in (301, 307):
        return SettingsError(f"{uri}: the bucket is in another region: set AWS_REGION.")
    if method == "get_object":
        return OSError(errno.EIO, f"the store answered {status} {code}")
    return ServiceUnavailable(f"{uri}: the store answered {status} {code} to {method}.")
