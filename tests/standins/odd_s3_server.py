"""An S3 server with the answers of odd gateways: no length, no ETag, endless or unfinished listings, web pages."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

DATA = b"not an image" * 100
ETAG = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
# A gateway's page is often valid XML.
PAGES = {"html": b"<html><body>Log in</body></html>", "empty": b"", "text": b"Service unavailable"}


class OddS3:
    """The state of the server.

    Attributes:
        mode: How it is odd: ``repeated token``, ``no token``, ``no length``, ``no etag``, ``cut``, a key of `PAGES`, or
            empty for an ordinary server. After ``late `` or ``once late ``, a key of `PAGES` is the answer to requests
            for what follows x/a.jpg, or to the first of them alone; x/b.jpg follows it.
        requests: The paths that were requested.
        endpoint: Its address.
    """

    def __init__(self) -> None:
        self.mode = ""
        self.requests: list[str] = []
        self.endpoint = ""


@contextmanager
def run_odd_s3() -> Iterator[OddS3]:
    """Runs the server; its bucket holds the object x/a.jpg."""
    state = OddS3()

    class Handler(_Handler):
        odd = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        Thread(target=running.serve_forever, daemon=True).start()
        state.endpoint = f"http://127.0.0.1:{running.server_port}"
        yield state
        running.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes
    odd: OddS3

    def do_GET(self) -> None:
        self.odd.requests.append(self.path)
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._send_listing()
        elif not self.path.endswith("/x/a.jpg"):
            self._send(b"", status=404)
        else:
            self._send_object()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send_listing(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        mode, is_late = self.odd.mode, False
        if mode.startswith(("late ", "once late ")):
            is_late = "continuation-token" in query or "start-after" in query
            if is_late and mode.startswith("once "):
                self.odd.mode = "late -"
            mode = mode.rpartition(" ")[2] if is_late else "more"
        is_truncated = mode in ("repeated token", "no token", "more")
        has_token = mode in ("repeated token", "more")
        token = "<NextContinuationToken>T</NextContinuationToken>" if has_token else ""
        is_end = "start-after" in query and not is_late
        contents = (
            f"<Contents><Key>x/{'b' if is_late else 'a'}.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{ETAG}&quot;</ETag><Size>{len(DATA)}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix></Prefix>'
            f"<KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{token}"
            f"{'' if is_end else contents}</ListBucketResult>"
        )
        self._send(PAGES.get(mode, body.encode()))

    def _send_object(self) -> None:
        mode = self.odd.mode
        self.send_response(200)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if mode != "no etag":
            self.send_header("ETag", f'"{ETAG}"')
        if mode not in ("no length", "cut"):
            self.send_header("Content-Length", str(len(DATA)))
        elif self.command != "HEAD":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        if mode not in ("no length", "cut"):
            self.wfile.write(DATA)
            return
        for start in range(0, len(DATA), 500):
            block = DATA[start : start + 500]
            self.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        if mode == "cut":
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: object) -> None: ...
