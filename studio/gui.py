"""LightlyStudio's GUI on 127.0.0.1, closed to other web pages."""

import logging
from typing import Any

import lightly_studio as ls
from lightly_studio.api.app import app
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")


class OwnPages:
    """Accepts requests from the pages of this server, and refuses all others.

    LightlyStudio has no login, allows every origin, and serves any file whose absolute path follows the first slash. So
    every page in the same browser could read and change the dataset. The Origin header names the page that sends a
    request. If the name of another page resolves to this address (DNS rebinding), the Host header shows it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forwards a request, or refuses it."""
        if scope["type"] == "http" and not _is_own(Headers(scope=scope), scope["path"]):
            await PlainTextResponse("Only pages of this server may send this request.", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _is_own(headers: Headers, path: str) -> bool:
    host = headers.get("host", "")
    is_own_host = host.split(":")[0] in _NAMES
    is_own_origin = headers.get("origin", f"http://{host}") == f"http://{host}"
    return is_own_host and is_own_origin and not path.startswith("//") and ".." not in path.split("/")


def serve(port: int) -> None:
    """Serves the open dataset until the user interrupts it."""
    app.add_middleware(OwnPages)
    # Every page requests the address for usage reports. There is none on purpose, so this is not logged as an error.
    logger = logging.getLogger("lightly_studio.api.exceptions")
    logger.addFilter(lambda record: "Usage tracking" not in record.getMessage())
    ls.start_gui(host=HOST, port=port, open_browser=False)
