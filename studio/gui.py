"""The GUI of LightlyStudio on 127.0.0.1, for its own pages alone."""

import logging
from typing import Any

import lightly_studio as ls
from lightly_studio.api.app import app
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")


class OwnPages:
    """Lets through what the pages of this server ask for, and nothing else.

    LightlyStudio has no login, allows every origin, and serves any file whose absolute path follows the first slash. So
    every page that is open in the same browser could read and change what is here. A browser tells which page a request
    comes from; and if that page's own name was made to lead to this address, the host tells it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "http" and not _is_own(Headers(scope=scope), scope["path"]):
            await PlainTextResponse("Only pages of this server may ask for this.", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_own(headers: Headers, path: str) -> bool:
    host = headers.get("host", "")
    by_name = host.split(":")[0] in _NAMES
    from_here = headers.get("origin", f"http://{host}") == f"http://{host}"
    return by_name and from_here and not path.startswith("//") and ".." not in path.split("/")


def serve(port: int) -> None:
    """Serves the dataset that is open until it is interrupted."""
    app.add_middleware(OwnPages)
    # Each page asks where to report to, and that we said "nowhere" is no error.
    logger = logging.getLogger("lightly_studio.api.exceptions")
    logger.addFilter(lambda record: "Usage tracking" not in record.getMessage())
    ls.start_gui(host=HOST, port=port, open_browser=False)
