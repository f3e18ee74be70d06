"""What has been done outside of the parts, remembered in the output as empty files.

Work that goes on for long, such as an upload, is cut into pieces. Each is named by all that its result depends on, and
a piece whose name is there need not be done again.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from job.parts import FOLDER
from job.storage import Storage


class Ledger:
    """The finished pieces of one kind of work.

    Args:
        output: Folder of the results.
        kind: Of the work.
        pieces: Names of all pieces that there are now. Others are forgotten before the work begins: it may undo what
            they did.
    """

    def __init__(self, output: Storage, kind: str, pieces: Iterable[str]) -> None:
        self._output = output
        self._prefix = f"{FOLDER}done-{kind}-"
        found = output.list(FOLDER, lambda key: key.startswith(self._prefix))
        done, pieces = {each.key.removeprefix(self._prefix) for each in found}, set(pieces)
        for other in done - pieces:
            output.delete(self._prefix + other)
        self._done = done & pieces

    def __contains__(self, name: str) -> bool:
        return name in self._done

    def add(self, name: str) -> None:
        """Remembers that a piece is finished."""
        self._output.write(self._prefix + name, b"")
        self._done.add(name)


def piece(*depends_on: Any) -> str:
    """The name of a piece, from all that its result depends on: values that go into JSON."""
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:32]
