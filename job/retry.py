"""Requests over a network: each attempt has a deadline, and what may pass is tried again.

Clients of object stores, and of Lightly, retry some failures and not others (a body that ends early, a wrong checksum),
and none of them limits how long a body may take that comes in drips. So they are all told to try once, and the retrying
is done here.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from job.errors import Stopped
from job.stopping import MESSAGE

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_SECONDS = 0.2
_TOLD_ONE_BY_ONE = 10
_retries = itertools.count(1)


class TransientError(Exception):
    """A failure that may pass; its text says what it was.

    Attributes:
        wait: Seconds that the other side asks to wait.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        self.wait = wait
        super().__init__(message)


class CorruptError(TransientError):
    """What came is not what the store holds."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        attempt: Seconds for one attempt, and in addition
        bytes_per_second: the time that its data takes at this rate.
        total: Seconds after which no other attempt is made.
        first_wait: Upper limit, in seconds, of the random wait after the first attempt; it doubles each time.
        longest_wait: Where that ends, in seconds.
        longest_asked: The most, in seconds, that is waited because the other side asks for it.
        corrupt: Attempts until data that does not fit its checksum is given up.
        grace: Seconds to go on once the job is asked to stop.
    """

    attempt: float = 15.0
    bytes_per_second: float = 1e6
    total: float = 120.0
    first_wait: float = 0.2
    longest_wait: float = 10.0
    longest_asked: float = 60.0
    corrupt: int = 5
    grace: float = 0.0


class Attempt:
    """One attempt at an operation.

    Attributes:
        number: 1 for the first.
        seconds: That it may take.
        give_up: Called when they are over, to end what it waits for.
    """

    def __init__(self, number: int, patience: Patience) -> None:
        self.number = number
        self.seconds = patience.attempt
        self.give_up: Callable[[], None] = lambda: None
        self._rate = patience.bytes_per_second

    def expect(self, size: int) -> None:
        """Allows the time that so many bytes take."""
        self.seconds += size / self._rate


def run_with_retries(
    operation: Callable[[Attempt], T], *, patience: Patience, stop: threading.Event, total: float
) -> T:
    """Tries an operation until it succeeds, fails for good, or patience ends.

    Args:
        operation: Raises TransientError for what is worth another attempt.
        patience: How long to try.
        stop: When set, the waiting ends, at once or after `Patience.grace`.
        total: Seconds after which no other attempt is made.

    Raises:
        TransientError: The last one, when patience ended.
        Stopped: `stop` was set, and there is no grace.
    """
    numbers = itertools.count(1)
    late = tenacity.stop_after_delay(total)
    stopped_at = float("inf")

    def stopped() -> bool:
        nonlocal stopped_at
        if stop.is_set():
            stopped_at = min(stopped_at, time.monotonic())
        return time.monotonic() - stopped_at >= patience.grace

    def over(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        corrupt = isinstance(error, CorruptError) and state.attempt_number >= patience.corrupt
        return corrupt or stopped() or late(state)

    backoff = tenacity.wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, TransientError) else 0.0
        return max(backoff(state), min(asked, patience.longest_asked))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=over,
        wait=wait,
        sleep=lambda seconds: time.sleep(min(seconds, _POLL_SECONDS)) if stop.wait(seconds) else None,
        before_sleep=_tell,
        reraise=True,
    )
    try:
        return retrying(lambda: _within(Attempt(next(numbers), patience), stopped, operation))
    except TransientError:
        if stopped() and not patience.grace:
            raise Stopped(MESSAGE) from None
        raise


class Requests:
    """The requests to one store or service.

    Args:
        patience: How long to try.
        stop: When set, the waiting ends.

    Attributes:
        patience: How long to try.
    """

    def __init__(self, patience: Patience, stop: threading.Event) -> None:
        self.patience = patience
        self._stop = stop
        self._answered = False

    def send(self, operation: Callable[[Attempt], T], *, once: bool = False) -> T:
        """Does an operation by `run_with_retries`, or tries it once.

        Before its first answer, a store that cannot be reached is more likely a mistyped one: then patience is shorter.
        """
        total = self.patience.total if self._answered else self.patience.total / 4
        result = run_with_retries(operation, patience=self.patience, stop=self._stop, total=0 if once else total)
        self._answered = True
        return result


def _within(attempt: Attempt, stopped: Callable[[], bool], operation: Callable[[Attempt], T]) -> T:
    """Runs an operation in a thread that is left behind when its time is over, or when the job is asked to stop.

    Nothing else ends a request that keeps sending a byte now and then. The thread ends when `Attempt.give_up` takes
    away what it waits for, or by the client's own timeout.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            value = operation(attempt)
        except BaseException as error:
            result.set_exception(error)
        else:
            result.set_result(value)

    threading.Thread(target=run, daemon=True, name="request").start()
    start = time.monotonic()
    while (left := start + attempt.seconds - time.monotonic()) > 0:
        try:
            return result.result(timeout=min(left, _POLL_SECONDS))
        except TimeoutError:
            if result.done():  # just now, or the error is the operation's own
                return result.result()
            if stopped():
                break
    attempt.give_up()
    raise TransientError("it took too long")


def _tell(state: tenacity.RetryCallState) -> None:
    count = next(_retries)
    if count <= _TOLD_ONE_BY_ONE or count % 100 == 0:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("A request failed and is tried again: %s (retry %d of this run).", error, count)
