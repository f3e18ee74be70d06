"""`python -m studio` with databases elsewhere, that writes down which connections it attempts.

Its first two arguments are the file to write them to and the folder of the databases.
"""

import sys
from pathlib import Path

_LOG = Path(sys.argv[1]).open("a", buffering=1)  # noqa: SIM115  # until the process ends


def _note(event: str, values: tuple[object, ...]) -> None:
    if event == "socket.connect":
        _LOG.write(f"{values[1]!r}\n")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        _LOG.write(f"{values!r}\n")


sys.addaudithook(_note)

from studio import __main__ as door  # noqa: E402  # after the hook

door.CACHE = Path(sys.argv[2])
sys.exit(door.main(sys.argv[3:]))
