"""Ends a worker process that decodes a poisoned image. No real image is known that crashes a decoder, so this one does.

Python imports this module at its start if its folder is in PYTHONPATH.
"""

import contextlib
import os
import signal
import sys
from typing import Any

POISON = b"poison"  # at the end of the file

with contextlib.suppress(ImportError):
    import simplejpeg

    _decode = simplejpeg.decode_jpeg

    def _decode_or_die(data: bytes, *arguments: Any, **options: Any) -> Any:
        if data.endswith(POISON) and sys.argv[0].endswith("default_worker.py"):
            os.kill(os.getpid(), signal.SIGKILL)
        return _decode(data, *arguments, **options)

    simplejpeg.decode_jpeg = _decode_or_die
