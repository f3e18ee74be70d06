"""How the Lightly platform is called: through lightly's own client, with deadlines, and again where that may help.

The client gives paths, authentication, TLS and the checks of requests and answers. What it lacks is here: it tries most
calls only once, waits without a limit for some, and writes the token, which is part of every address, into its errors.
So every call has a deadline, is tried again when it may succeed later, and fails with a `JobError` without an address.
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
from job.secret import Secret, hidden

T = TypeVar("T")

SIMULTANEOUS = 32
TIMEOUT = (10, 45)  # seconds to connect, and between two pieces of an answer
_PATIENCE = Patience(attempt=60.0, first_wait=0.5, longest_wait=20.0)
_FOR_GOOD = frozenset({501, 505})  # of the server errors
# What 403 may say besides "this token is not accepted" is a limit of the account, or of a feature.
_ABOUT_THE_TOKEN = re.compile(r"|FORBIDDEN|UNAUTHORIZED|JWT_.*|USER_.*")
_NOT_READY = "EMBEDDING_NOT_READY"


class Refused(ServiceUnavailable):
    """The platform refuses a request.

    Attributes:
        status: Of HTTP.
        code: The platform's own word for the reason.
    """

    def __init__(self, what: str, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        super().__init__(hidden(f"Lightly refuses to {what}: {message} ({status} {code})").rstrip() + ".")


class Transport:
    """Calls to the platform, as one user.

    Args:
        token: Of the user.
        server: Address of the platform.
        stop: When set, the waiting ends.
        patience: How long to try.

    Attributes:
        server: Address of the platform.
        client: lightly's own.
        files: For signed addresses, which are no place for the token.
    """

    def __init__(self, token: Secret, server: str, stop: threading.Event, patience: Patience | None = None) -> None:
        self.server = server
        self._requests = Requests(patience or _PATIENCE, stop)
        self.client = ApiWorkflowClient(token=token.value)
        configuration = self.client.api_client.configuration
        configuration.host = server
        configuration.retries = False
        # The client knows neither NO_PROXY nor the names in small letters.
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

    def pages(self, what: str, get: Callable[..., list[T]], size: int, *arguments: Any, **options: Any) -> Iterator[T]:
        """Yields what a call returns in pages of the given size; raises as `call` does."""
        offset = 0
        while True:
            here = functools.partial(get, *arguments, page_size=size, page_offset=offset, **options)
            page = self.call(what, lambda _, here=here: here())  # type: ignore[misc]
            yield from page
            if len(page) < size:
                return
            offset += size

    def call(self, what: str, request: Callable[[Attempt], T]) -> T:
        """Makes a call.

        Args:
            what: What the platform is asked to do, for errors.
            request: Makes it once.

        Raises:
            AccessDenied: The token is not accepted, or not for this.
            Refused: Something else is wrong with the request.
            TryAgain: The platform cannot be reached.
        """
        try:
            return self._requests.send(lambda attempt: self._once(what, request, attempt))
        except TransientError as error:
            raise TryAgain(f"Lightly at {self.server} cannot be reached to {what}: {error}.") from None

    def _once(self, what: str, request: Callable[[Attempt], T], attempt: Attempt) -> T:
        # Errors of the libraries hold the address, and with it the token: none is let through, nor chained.
        try:
            return request(attempt)
        except ApiException as error:
            failure = _failure(what, error.status, error.reason, error.body, error.headers or {})
        except requests.HTTPError as error:
            failure = _file_failure(what, error.response)
        except (urllib3.exceptions.HTTPError, requests.RequestException, OSError) as error:
            failure = _not_reached(what, error)
        except JobError:
            raise
        except Exception as error:
            failure = JobError(hidden(f"Lightly was asked to {what}: {type(error).__name__}: {error}"))
        raise failure


class _Adapter(requests.adapters.HTTPAdapter):
    """Sends requests with a timeout, and through the environment's proxies.

    requests would look these up for every file, which takes as long as the rest of the request.
    """

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        options["timeout"] = options.get("timeout") or TIMEOUT
        options["proxies"] = _proxies(*urlsplit(str(request.url))[:2])
        return super().send(request, *arguments, **options)


@functools.cache
def _proxies(scheme: str, host: str) -> dict[str, str]:
    return requests.utils.get_environ_proxies(f"{scheme}://{host}")


def _failure(what: str, status: int | None, reason: str | None, body: Any, headers: Any) -> Exception:
    if not status:
        return _not_reached(what, reason)
    code, message = _explained(body)
    message = message or reason or "no reason given"
    if status == 401 or (status == 403 and _ABOUT_THE_TOKEN.fullmatch(code)):
        return AccessDenied(hidden(f"Lightly does not accept this token to {what}: {message} ({status} {code})."))
    if _may_pass(status) or code == _NOT_READY or (status == 409 and not code.endswith("_EXISTS")):
        return TransientError(f"{status} {code or reason}", wait=_retry_after(headers))
    return Refused(what, status, code, message)


def _file_failure(what: str, answer: requests.Response) -> Exception:
    status, reason = answer.status_code, answer.reason
    if _may_pass(status):
        return TransientError(f"{status} {reason}", wait=_retry_after(answer.headers))
    return Refused(what, status, "", f"the store of its files says {reason}")


def _may_pass(status: int) -> bool:
    return status in (408, 425, 429) or (status >= 500 and status not in _FOR_GOOD)


def _not_reached(what: str, why: Any) -> Exception:
    if "CERTIFICATE_VERIFY_FAILED" in str(why):
        return SettingsError(
            f"The certificate of Lightly, or of the store of its files, is not trusted (to {what}): name the file of "
            "your own authority in LIGHTLY_CA_CERTS and REQUESTS_CA_BUNDLE."
        )
    return TransientError(type(why).__name__ if isinstance(why, Exception) else "the connection failed")


def _explained(body: Any) -> tuple[str, str]:
    """The code and the message of an error, if the body holds them."""
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
