"""Writes parts in a thread, while the next ones are made."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from job import parts
from job.detect.cpu_turns import Turns
from job.detect.imported import Imported
from job.shards import Shard
from job.storage import Storage


class PartWriter:
    """Writes each part once it has all its rows; a context manager, which at its end writes the rows that are there.

    Args:
        output: Store that the parts are written to.
        provenance: Provenance of the parts.
        turns: Frees the cores while the writer is waited for.
        imported: Detections from elsewhere that the rows are completed with; None if the rows have their own.
        shard: The shard that the images are of; None if there is one only.
    """

    def __init__(
        self,
        output: Storage,
        provenance: parts.Provenance,
        turns: Turns,
        imported: Imported | None = None,
        shard: Shard | None = None,
    ) -> None:
        self._output, self._provenance, self._turns, self._imported = output, provenance, turns, imported
        self._shard = shard
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._making: deque[tuple[list[parts.Row], int, Callable[[], None]]] = deque()
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._executor:
            self._submit_finished()
            while self._making:
                self._write(self._making.popleft()[0])
        for future in self._writing:
            future.result()

    def begin(self, count: int, written: Callable[[], None]) -> list[parts.Row]:
        """Begins a part, and returns the list for its rows.

        Args:
            count: Number of its images.
            written: Called in a thread once the part is in the output with all its rows.
        """
        rows: list[parts.Row] = []
        self._making.append((rows, count, written))
        return rows

    def write_finished(self) -> None:
        """Starts to write the parts that have all their rows. Waits until at most one part is being written.

        Raises:
            ServiceUnavailable: If an earlier part cannot be written.
        """
        self._submit_finished()
        while len(self._writing) > 1:
            with self._turns.release_cores():
                self._writing.popleft().result()

    def _submit_finished(self) -> None:
        while self._making and len(self._making[0][0]) == self._making[0][1]:
            rows, _, written = self._making.popleft()
            self._write(rows, written)

    def _write(self, rows: list[parts.Row], written: Callable[[], None] | None = None) -> None:
        if self._imported:
            rows = [self._imported.complete(row) for row in rows]
        if rows:
            self._writing.append(self._executor.submit(self._write_now, rows, written))

    def _write_now(self, rows: list[parts.Row], written: Callable[[], None] | None) -> None:
        parts.write(self._output, rows, self._provenance, self._shard)
        if written:
            written()
