"""Requests over a network: each attempt has a deadline, and transient failures are retried.

Clients of object stores and of Lightly retry some failures, but not others (a truncated body, a wrong checksum). None
limits the time of a body that arrives very slowly. So all of them make only one attempt, and the retries happen here.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import tenacity

from job.errors import Stopped
from job.stopping import MESSAGE

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Tasks = SimpleQueue[tuple[Future[Any], Callable[[], Any]]]

_POLL_SECONDS = 0.2
_MAX_LOGGED_RETRIES = 10  # after these, only every hundredth is logged
_retries = itertools.count(1)


class TransientError(Exception):
    """A failure that may be temporary; its text describes it.

    Attributes:
        wait: Seconds that the server asks to wait.
    """

    def __init__(self, message: str, wait: float = 0.0) -> None:
        self.wait = wait
        super().__init__(message)


class CorruptError(TransientError):
    """The received content differs from what the store holds."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        attempt: Seconds for one attempt, without the time for its data.
        bytes_per_second: Lowest rate of a transfer; it adds the time for the data to an attempt.
        total: Seconds after which no further attempt begins.
        first_wait: Upper limit, in seconds, of the random wait after the first attempt. It doubles each time.
        longest_wait: Seconds at which the doubling of that limit ends.
        longest_asked: Upper limit, in seconds, of a wait that the server asks for.
        corrupt: Number of attempts for data that does not match its checksum.
        grace: Seconds to continue after the job is asked to stop.
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
        number: 1 for the first attempt.
        seconds: Seconds that the attempt may take.
        give_up: Called at a timeout, to end what the attempt waits for.
    """

    def __init__(self, number: int, patience: Patience) -> None:
        self.number = number
        self.seconds = patience.attempt
        self.give_up: Callable[[], None] = lambda: None
        self._rate = patience.bytes_per_second

    def expect(self, size: int) -> None:
        """Adds the time that the transfer of `size` bytes may take."""
        self.seconds += size / self._rate


def run_with_retries(
    operation: Callable[[Attempt], T], *, patience: Patience, stop: threading.Event, total: float
) -> T:
    """Tries an operation until it succeeds, fails permanently, or patience ends.

    Args:
        operation: The operation; it raises a TransientError if another attempt may succeed.
        patience: How long to try.
        stop: When set, the attempts end, at once or after `Patience.grace`.
        total: Seconds after which no further attempt begins.

    Raises:
        TransientError: If patience ended; it is that of the last attempt.
        Stopped: If `stop` was set and there is no grace.
    """
    numbers = itertools.count(1)
    is_late = tenacity.stop_after_delay(total)
    stopped_at = float("inf")

    def is_stopped() -> bool:
        nonlocal stopped_at
        if stop.is_set():
            stopped_at = min(stopped_at, time.monotonic())
        return time.monotonic() - stopped_at >= patience.grace

    def is_over(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        is_corrupt = isinstance(error, CorruptError) and state.attempt_number >= patience.corrupt
        return is_corrupt or is_stopped() or is_late(state)

    backoff = tenacity.wait_random_exponential(multiplier=patience.first_wait, max=patience.longest_wait)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked_wait = error.wait if isinstance(error, TransientError) else 0.0
        return max(backoff(state), min(asked_wait, patience.longest_asked))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=is_over,
        wait=wait,
        sleep=lambda seconds: time.sleep(min(seconds, _POLL_SECONDS)) if stop.wait(seconds) else None,
        before_sleep=_log_retry,
        reraise=True,
    )
    try:
        return retrying(lambda: _run_attempt(Attempt(next(numbers), patience), is_stopped, operation))
    except TransientError:
        if is_stopped() and not patience.grace:
            raise Stopped(MESSAGE) from None
        raise


class Requests:
    """The requests to one store or service.

    Args:
        patience: How long to try.
        stop: When set, requests end as in `run_with_retries`.

    Attributes:
        patience: How long to try.
        has_answer: Whether a request has succeeded.
    """

    def __init__(self, patience: Patience, stop: threading.Event) -> None:
        self.patience = patience
        self._stop = stop
        self.has_answer = False

    def send(self, operation: Callable[[Attempt], T]) -> T:
        """Runs an operation with `run_with_retries`.

        Until a store has answered for the first time, only a quarter of the time is spent: if it cannot be reached, a
        typo in its name is then more likely than an outage.

        Args:
            operation: The operation; it raises a TransientError if another attempt may succeed.
        """
        total = self.patience.total if self.has_answer else self.patience.total / 4
        result = run_with_retries(operation, patience=self.patience, stop=self._stop, total=total)
        self.has_answer = True
        return result


class _Threads:
    """Daemon threads that run functions, each one after another: to start a thread takes as long as a small read.

    There are as many as functions ran at the same time. A thread that nobody waits for any more is idle again when its
    function ends. `ThreadPoolExecutor` would wait for such threads at the end of the job.
    """

    def __init__(self) -> None:
        self._idle: list[_Tasks] = []  # its methods are atomic

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Runs a function in a thread."""
        try:
            tasks = self._idle.pop()
        except IndexError:
            tasks = SimpleQueue()
            threading.Thread(target=self._work, args=(tasks,), daemon=True, name="request").start()
        future: Future[T] = Future()
        tasks.put((future, function))
        return future

    def _work(self, tasks: _Tasks) -> None:
        while True:
            self._run_next(tasks)

    def _run_next(self, tasks: _Tasks) -> None:  # a function of its own, so that nothing is kept until the next one
        future, function = tasks.get()
        try:
            value = function()
        except BaseException as error:
            self._idle.append(tasks)
            future.set_exception(error)
        else:
            self._idle.append(tasks)
            future.set_result(value)


_threads = _Threads()


def run_in_thread(function: Callable[[], T]) -> Future[T]:
    """Runs a function in a thread that may be left behind: the process does not wait for it when it ends."""
    return _threads.run(function)


def _run_attempt(attempt: Attempt, is_stopped: Callable[[], bool], operation: Callable[[Attempt], T]) -> T:
    """Runs an operation in a thread, which is abandoned at a timeout or when the job is asked to stop.

    There is no other way to end a request whose answer keeps arriving byte by byte. The operation ends when
    `Attempt.give_up` closes what it waits for, or by the client's own timeout.
    """
    result = _threads.run(lambda: operation(attempt))
    start = time.monotonic()
    while (left := start + attempt.seconds - time.monotonic()) > 0:
        try:
            return result.result(timeout=min(left, _POLL_SECONDS))
        except TimeoutError:
            if result.done():  # finished just now, or the operation itself raised the TimeoutError
                return result.result()
            if is_stopped():
                break
    attempt.give_up()
    raise TransientError("timed out")


def _log_retry(state: tenacity.RetryCallState) -> None:
    count = next(_retries)
    if count <= _MAX_LOGGED_RETRIES or count % 100 == 0:
        error = state.outcome.exception() if state.outcome else None
        logger.warning("Request failed, retrying: %s (retry %d of this run).", error, count)
