"""What has been done outside of the parts, remembered in the output as small files.

Work that goes on for long, such as an upload, is cut into pieces. Each is named by all that its result depends on, and
a piece whose name is there need not be done again.
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
        kind: Of the work.
        pieces: Names of all pieces that there are now; others are forgotten before the work begins, since it may undo
            what they did. None to keep all.
    """

    def __init__(self, output: Storage, kind: str, pieces: Iterable[str] | None = None) -> None:
        self._output = output
        self._prefix = f"{FOLDER}done-{kind}-"
        found = output.list(FOLDER, lambda key: key.startswith(self._prefix))
        self._done = {each.key.removeprefix(self._prefix) for each in found}
        if pieces is not None:
            pieces = set(pieces)
            for other in self._done - pieces:
                output.delete(self._prefix + other)
            self._done &= pieces

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def add(self, name: str, names: Iterable[str] = ()) -> None:
        """Remembers that a piece is finished, and some names with it."""
        self._output.write(self._prefix + name, json.dumps(sorted(names)).encode())
        self._done.add(name)

    def names(self, name: str) -> set[str]:
        """The names that were remembered with a piece; none if it is not finished."""
        return set(json.loads(read_required(self._output, self._prefix + name))) if name in self._done else set()

    def all_names(self) -> set[str]:
        """The names of all pieces."""
        return set().union(*(self.names(each) for each in self._done))


def piece(*depends_on: Any) -> str:
    """The name of a piece, from all that its result depends on: values that go into JSON."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
