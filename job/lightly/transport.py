"""Calls to the Lightly platform with lightly's own client, with deadlines and retries.

The client provides paths, authentication, TLS, and checks of requests and answers. It does not retry most calls, waits
for some without a limit, and puts the token, which is part of every URL, into its errors. So every call here has a
deadline, is retried if it may succeed later, and fails with a `JobError` that contains no URL.
"""

import email.utils
import functools
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3
from lightly.api import ApiWorkflowClient
from lightly.api.swagger_rest_client import LightlySwaggerRESTClientObject
from lightly.openapi_generated.swagger_client.exceptions import ApiException

from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, TryAgain
from job.retry import Attempt, Patience, Requests, TransientError
from job.secret import Secret, hide_secrets

T = TypeVar("T")

SIMULTANEOUS = 32
TIMEOUT = (10, 45)  # seconds to connect, and to wait for the next data of an answer
_PATIENCE = Patience(attempt=60.0, first_wait=0.5, longest_wait=20.0)
_PERMANENT_SERVER_ERRORS = frozenset({501, 505})
# With other codes, 403 does not mean that the token is not accepted, but a limit of the account or of a feature.
_TOKEN_CODES = re.compile(r"|FORBIDDEN|UNAUTHORIZED|JWT_.*|USER_.*")
_NOT_READY = "EMBEDDING_NOT_READY"


class Refused(ServiceUnavailable):
    """The platform refused a request.

    Attributes:
        status: HTTP status; 0 if no single request is meant.
        code: The platform's code for the reason; empty if there is none.
    """

    status = 0
    code = ""

    @classmethod
    def of(cls, action: str, status: int, code: str, message: str) -> "Refused":
        """Makes the error of one request.

        Args:
            action: Purpose of the request, such as "list tags".
            status: HTTP status.
            code: The platform's code for the reason; empty if there is none.
            message: The reason in words.
        """
        text = hide_secrets(f"Lightly refused the request to {action}: {message} ({status} {code})")
        error = cls(text.rstrip() + ".")
        error.status, error.code = status, code
        return error


class Transport:
    """Calls to the platform, with the permissions of one user.

    Args:
        token: The user's token.
        server: Address of the platform.
        stop: When set, the waiting ends.
        patience: Limits of attempts and retries.

    Attributes:
        server: Address of the platform.
        client: lightly's own client.
        files: HTTP session for signed URLs, which must not get the token.
    """

    def __init__(self, token: Secret, server: str, stop: threading.Event, patience: Patience | None = None) -> None:
        self.server = server
        self._requests = Requests(patience or _PATIENCE, stop)
        self.client = ApiWorkflowClient(token=token.value)
        configuration = self.client.api_client.configuration
        configuration.host = server
        configuration.retries = False
        # The client ignores NO_PROXY and the lower-case names of the proxy variables.
        configuration.proxy = _proxies(*urlsplit(server)[:2]).get(urlsplit(server).scheme)
        self.client.api_client.rest_client = LightlySwaggerRESTClientObject(
            configuration, timeout=TIMEOUT, maxsize=SIMULTANEOUS
        )
        self.files = requests.Session()
        self.files.trust_env = False
        self.files.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        adapter = _Adapter(pool_connections=SIMULTANEOUS, pool_maxsize=SIMULTANEOUS)
        self.files.mount("https://", adapter)
        self.files.mount("http://", adapter)

    def pages(
        self, action: str, get: Callable[..., list[T]], size: int, *arguments: Any, **options: Any
    ) -> Iterator[T]:
        """Yields the items of a call that answers in pages of the given size; raises the same errors as `call`."""
        offset = 0
        while True:
            get_page = functools.partial(get, *arguments, page_size=size, page_offset=offset, **options)
            page = self.call(action, lambda _, get_page=get_page: get_page())  # type: ignore[misc]
            yield from page
            if len(page) < size:
                return
            offset += size

    def call(self, action: str, request: Callable[[Attempt], T]) -> T:
        """Makes a call.

        Args:
            action: Purpose of the call for error messages, such as "list tags".
            request: Makes one attempt.

        Raises:
            AccessDenied: If the platform does not accept the token, or not for this call.
            Refused: If the platform refuses the request for another reason.
            TryAgain: If the platform cannot be reached.
        """
        try:
            return self._requests.send(lambda attempt: self._attempt(action, request, attempt))
        except TransientError as error:
            raise TryAgain(f"Cannot reach Lightly at {self.server} to {action}: {error}.") from None

    def _attempt(self, action: str, request: Callable[[Attempt], T], attempt: Attempt) -> T:
        # Errors of the libraries contain the URL, and with it the token, so they are neither re-raised nor chained.
        try:
            return request(attempt)
        except ApiException as error:
            failure = _failure(action, error.status, error.reason, error.body, error.headers or {})
        except requests.HTTPError as error:
            failure = _file_failure(action, error.response)
        except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
            failure = _connection_failure(action, error)
        except JobError:
            raise
        except Exception as error:
            failure = JobError(hide_secrets(f"Cannot {action}: {type(error).__name__} in Lightly's client: {error}"))
        raise failure


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends requests with a timeout, and through the environment's proxies.

    requests would look up the proxies for every file, which takes as long as the rest of the request.
    """

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or TIMEOUT
        options["proxies"] = _proxies(*urlsplit(str(request.url))[:2])
        return super().send(request, *arguments, **options)


@functools.cache
def _proxies(scheme: str, host: str) -> dict[str, str]:
    return requests.utils.get_environ_proxies(f"{scheme}://{host}")


def _failure(action: str, status: int | None, reason: str | None, body: Any, headers: Any) -> Exception:
    if not status:
        return _connection_failure(action, reason)
    code, message = _parse_error(body)
    message = message or reason or "no reason given"
    if status == 401 or (status == 403 and _TOKEN_CODES.fullmatch(code)):
        denied = f"Lightly does not accept this token for the request to {action}: {message} ({status} {code})."
        return AccessDenied(hide_secrets(f"{denied} Check LIGHTLY_TOKEN."))
    if _is_transient(status) or code == _NOT_READY or (status == 409 and not code.endswith("_EXISTS")):
        return TransientError(f"{status} {code or reason}", wait=_retry_after(headers))
    return Refused.of(action, status, code, message)


def _file_failure(action: str, answer: requests.Response) -> Exception:
    status, reason = answer.status_code, answer.reason
    if _is_transient(status):
        return TransientError(f"{status} {reason}", wait=_retry_after(answer.headers))
    return Refused.of(action, status, "", f"its file store answered {reason}")


def _is_transient(status: int) -> bool:
    return status in (408, 425, 429) or (status >= 500 and status not in _PERMANENT_SERVER_ERRORS)


def _connection_failure(action: str, reason: Any) -> Exception:
    if "CERTIFICATE_VERIFY_FAILED" in str(reason):
        return SettingsError(
            f"Cannot {action}: the TLS certificate of Lightly, or of its file store, is not trusted. Set "
            "LIGHTLY_CA_CERTS and REQUESTS_CA_BUNDLE to the file of your certificate authority."
        )
    return TransientError(type(reason).__name__ if isinstance(reason, Exception) else "the connection failed")


def _parse_error(body: Any) -> tuple[str, str]:
    """The code and the message of an error; empty if the body lacks them."""
    try:
        content = json.loads(body)
        return str(content.get("code", "")), str(content.get("error", ""))
    except (AttributeError, TypeError, ValueError):
        return "", ""


def _retry_after(headers: Any) -> float:
    value = headers.get("Retry-After") or "0"
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
