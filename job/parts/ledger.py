"""A record of finished work outside the parts, kept in the output as small files.

Long work, such as an upload, is cut into pieces. The name of a piece is a digest of everything that its result depends
on, so a piece whose name is in the ledger is not done again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from job.parts import FOLDER
from job.storage import Storage, read_required


class Ledger:
    """The finished pieces of one kind of work, each with a list of names.

    Args:
        output: Folder of the results.
        kind: Kind of work.
        pieces: Names of all pieces that exist now. All others are forgotten before the work begins, since it may undo
            their results. None keeps all.
    """

    def __init__(self, output: Storage, kind: str, pieces: Iterable[str] | None = None) -> None:
        self._output = output
        self._prefix = f"{FOLDER}done-{kind}-"
        files = output.list(FOLDER, lambda key: key.startswith(self._prefix))
        self._done = {file.key.removeprefix(self._prefix) for file in files}
        if pieces is not None:
            pieces = set(pieces)
            for other in self._done - pieces:
                output.delete(self._prefix + other)
            self._done &= pieces

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def add(self, name: str, names: Iterable[str] = ()) -> None:
        """Records that a piece is finished, with some names."""
        self._output.write(self._prefix + name, json.dumps(sorted(names)).encode())
        self._done.add(name)

    def names(self, name: str) -> set[str]:
        """The names that were recorded with a piece; empty if the piece is not finished."""
        return set(json.loads(read_required(self._output, self._prefix + name))) if name in self._done else set()

    def all_names(self) -> set[str]:
        """The names that were recorded with all finished pieces."""
        return set().union(*(self.names(piece) for piece in self._done))


def name_piece(*depends_on: Any) -> str:
    """The name of a piece.

    Args:
        depends_on: Everything that the result of the piece depends on, as values that JSON can hold.
    """
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
