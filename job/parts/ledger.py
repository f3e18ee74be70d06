"""A record of finished work outside the parts, kept in the output as small files.

Long work, such as an upload, is cut into pieces. The name of a piece is a digest of everything that its result depends
on, so a piece whose name is in the ledger is not done again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from job.errors import DamagedFileError
from job.parts import FOLDER, checked
from job.parts.checked import DamagedTableError
from job.storage import Storage, read_required


class Ledger:
    """The finished pieces of one kind of work, each with a list of names.

    Args:
        output: Folder of the results.
        kind: Kind of work.
        pieces: Names of all pieces that exist now; all others are forgotten (`forget_others`). None keeps all.
    """

    def __init__(self, output: Storage, kind: str, pieces: Iterable[str] | None = None) -> None:
        self._output = output
        self._done_prefix, self._begun_prefix = f"{FOLDER}done-{kind}-", f"{FOLDER}begun-{kind}-"
        prefixes = (self._done_prefix, self._begun_prefix)
        keys = [file.key for file in output.list(FOLDER, lambda key: key.startswith(prefixes))]
        self._done = {key.removeprefix(self._done_prefix) for key in keys if key.startswith(self._done_prefix)}
        self._begun = {key.removeprefix(self._begun_prefix) for key in keys if key.startswith(self._begun_prefix)}
        if pieces is not None:
            self.forget_others(pieces)

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def begin(self, name: str, names: Iterable[str]) -> None:
        """Records the names of a piece before it is done, so that a killed run leaves nothing without a record."""
        self._output.write(self._begun_prefix + name, checked.dump_json(sorted(names)))
        self._begun.add(name)

    def add(self, name: str, names: Iterable[str] = ()) -> None:
        """Records that a piece is finished, with some names."""
        self._output.write(self._done_prefix + name, checked.dump_json(sorted(names)))
        self._done.add(name)
        if name in self._begun:
            self._output.delete(self._begun_prefix + name)
            self._begun.remove(name)

    def forget_others(self, names: Iterable[str]) -> None:
        """Forgets all pieces but these, before work begins that may undo the results of the others."""
        names = set(names)
        for other in self._done - names:
            self._output.delete(self._done_prefix + other)
        for other in self._begun - names:
            self._output.delete(self._begun_prefix + other)
        self._done &= names
        self._begun &= names

    def names_of_others(self, names: Iterable[str]) -> set[str]:
        """The names that were recorded with all pieces but these, finished or begun.

        Raises:
            DamagedFileError: If a file of the ledger is damaged.
        """
        names = set(names)
        files = [self._done_prefix + other for other in self._done - names]
        files += [self._begun_prefix + other for other in self._begun - names]
        return set().union(*map(self._read, files))

    def names(self, name: str) -> set[str]:
        """The names that were recorded with a piece; empty if the piece is not finished.

        Raises:
            DamagedFileError: If a file of the ledger is damaged.
        """
        return self._read(self._done_prefix + name) if name in self._done else set()

    def all_names(self) -> set[str]:
        """The names that were recorded with all finished pieces.

        Raises:
            DamagedFileError: If a file of the ledger is damaged.
        """
        return set().union(*(self.names(piece) for piece in self._done))

    def _read(self, key: str) -> set[str]:
        try:
            return set(checked.load_json(read_required(self._output, key)))
        except DamagedTableError as error:
            raise DamagedFileError.of(self._output.uri, key, error, "delete it and run the job again") from error


def name_piece(*depends_on: Any) -> str:
    """The name of a piece.

    Args:
        depends_on: Everything that the result of the piece depends on, as values that JSON can hold.
    """
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
