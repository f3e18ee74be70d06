"""A local server that speaks the API of the Lightly platform, as strictly as the models in its client describe it.

It is a stand-in, since tests cannot use the platform itself. Every request and every answer is checked against the
client's own models (unknown fields, types, patterns, lengths). `tests.standins.lightly_platform` has the calls.

It can also fail on purpose: see `Fault`.
"""

import argparse
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lightly.openapi_generated.swagger_client import models

from tests.standins.lightly_platform import Platform, Refusal

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class Fault:
    """A failure of a call.

    Attributes:
        kind: ``reset`` (before the call is processed), ``lost`` (processed, but the answer is lost), or an HTTP status.
        times: How many calls fail.
        code: Error code of the platform, for an HTTP status.
    """

    kind: str | int
    times: int = 1
    code: str = "BAD_REQUEST"


class LightlyServer(Platform):
    """The server, in threads of this process.

    Args:
        latency: Seconds that each answer takes.
        checks: Whether bodies and answers are checked.
        options: Arguments of `Platform`.
    """

    def __init__(self, *, latency: float = 0.0, checks: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.latency, self.checks = latency, checks
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, list[Fault]] = {}
        self.refusals: list[str] = []
        self.unauthorised: set[str] = set()
        self.on_call: Callable[[str], None] = lambda name: None
        self._lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    @contextmanager
    def running(self) -> Iterator["LightlyServer"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()

    def serve(self) -> None:
        self._http.serve_forever()

    def unexpected(self) -> list[str]:
        """The requests that the server refused, without injected faults and missing objects."""
        return [each for each in self.refusals if "made to fail" not in each]

    def fail(self, call: str, *faults: Fault) -> None:
        """Makes the next calls of a name fail."""
        self.faults.setdefault(call, []).extend(faults)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            timeout = 60

            def log_message(self, *arguments: Any) -> None:
                pass

            def _handle(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                # A client that is killed leaves half a request behind.
                answer = server.answer(self.command, self.path, body) if len(body) == size else None
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, data = answer
                self.send_response(status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(data)),
                    **headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

        return Handler

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Returns the answer to a request; None if the connection breaks."""
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
        for route in ROUTES:
            match = route.path.fullmatch(url.path)
            if match and route.method == method:
                return self._answer(route, [unquote(each) for each in match.groups()], query, body)
        self.refusals.append(f"no such call: {method} {url.path}")
        return _error(Refusal(404, "NOT_FOUND", f"{method} {url.path}"))

    def _answer(
        self, route: "Route", path: list[str], query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, str], bytes] | None:
        name = route.call.__name__
        with self._lock:
            self.calls[name] += 1
            self.on_call(name)
            fault = self._next_fault(name)
        time.sleep(self.latency)
        if fault and fault.kind == "reset":
            return None
        if fault and isinstance(fault.kind, int):
            headers = {"Retry-After": "1"} if fault.kind == 429 else {}
            return fault.kind, headers, json.dumps({"code": fault.code, "error": "made to fail"}).encode()
        try:
            token = query.pop("token", None)
            if route.open and token is not None and "X-Amz-Signature" in query:
                raise Refusal(400, "BAD_REQUEST", "a token in a signed address")
            if not route.open and (token != TOKEN or name in self.unauthorised):
                raise Refusal(403 if token else 401, "FORBIDDEN", "this token is not known")
            if unknown := query.keys() - route.query:
                raise Refusal(400, "BAD_REQUEST", f"unknown parameters {unknown}")
            content = self._parsed(route, body)
            with self._lock:
                status, result = route.call(self, query, content, *self._resolved(route, path))
        except Refusal as error:
            if error.status != 404:
                self.refusals.append(f"{name}: {error}")
            return _error(error)
        if fault:  # the answer is lost
            return None
        if self.checks and route.answer:
            for each in result if isinstance(result, list) else [result]:
                route.answer.from_dict(json.loads(json.dumps(each)))
        return (
            status,
            {},
            result if isinstance(result, bytes) else b"" if result is None else json.dumps(result).encode(),
        )

    def _next_fault(self, name: str) -> Fault | None:
        waiting = self.faults.get(name, [])
        while waiting and waiting[0].times == 0:
            waiting.pop(0)
        if not waiting:
            return None
        waiting[0].times -= 1
        return waiting[0]

    def _resolved(self, route: "Route", path: list[str]) -> list[Any]:
        if not route.path.pattern.startswith(_DATASET):
            return path
        if path[0] not in self.datasets:
            raise Refusal(404, "DATASET_UNKNOWN")
        return [self.datasets[path[0]], *path[1:]]

    def _parsed(self, route: "Route", body: bytes) -> Any:
        if route.body is None:
            if body:
                raise Refusal(400, "BAD_REQUEST", "a body")
            return None
        if route.body is bytes:
            return body
        try:
            content = json.loads(body, parse_constant=_no_constant)
            if self.checks:
                for each in content if isinstance(content, list) else [content]:
                    if isinstance(content, list) != (route.body is models.PredictionSingleton):
                        raise ValueError("a list, or none")
                    route.body.from_dict(each)
        except (ValueError, KeyError, TypeError) as error:
            raise Refusal(400, "MALFORMED_REQUEST", str(error)) from None
        return content


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _error(error: Refusal) -> tuple[int, dict[str, str], bytes]:
    return error.status, {}, json.dumps({"code": error.code, "error": error.error, "requestId": "1"}).encode()


@dataclass
class Route:
    """One call: its method and path, its parameters, and the models of its body and answer."""

    method: str
    path: re.Pattern[str]
    call: Callable[..., tuple[int, Any]]
    body: Any = None
    answer: Any = None
    query: frozenset[str] = frozenset()
    open: bool = False


_DATASET = "/v1/datasets/([0-9a-f]"
_PAGING = ("pageSize", "pageOffset")
_S = LightlyServer


def _route(method: str, path: str, call: Callable[..., tuple[int, Any]], *query: str, **more: Any) -> Route:
    pattern = path.replace("ID", "([0-9a-f]{24})").replace("TEXT", "([^/]+)")
    return Route(method, re.compile(pattern), call, query=frozenset(query), **more)


_D = "/v1/datasets/ID"
_MADE = models.CreateEntityResponse
ROUTES = [
    _route("GET", "/v1/versions/pip/minimum", _S.minimum_version, open=True),
    _route("GET", "/v1/quota", _S.get_quota),
    _route("GET", "/v1/datasets/query/name/TEXT", _S.find_datasets, "exact", "shared", "getAssetsOfTeam", *_PAGING,
           answer=models.DatasetData),
    _route("POST", "/v1/datasets", _S.create_dataset, body=models.DatasetCreateRequest, answer=_MADE),
    _route("GET", _D, _S.get_dataset, answer=models.DatasetData),
    _route("PUT", f"{_D}/registerDatasetUpload", _S.register_upload, body=models.JobStatusMeta),
    _route("GET", f"{_D}/samples/partial", _S.list_samples, "mode", "fileName", *_PAGING,
           answer=models.SampleDataModes),
    _route("GET", f"{_D}/mappings", _S.list_mappings, "field", *_PAGING),
    _route("POST", f"{_D}/samples", _S.create_sample, body=models.SampleCreateRequest, answer=_MADE),
    _route("POST", f"{_D}/samples/withWriteUrls", _S.create_sample_with_urls, body=models.SampleCreateRequest,
           answer=models.CreateSampleWithWriteUrlsResponse),
    _route("GET", f"{_D}/samples/ID/writeurls", _S.get_write_urls, answer=models.SampleWriteUrls),
    _route("PUT", "/files/ID/TEXT", _S.put_file, "X-Amz-Signature", body=bytes, open=True),
    _route("GET", "/files/ID/TEXT", _S.get_file, "X-Amz-Signature", open=True),
    _route("GET", f"{_D}/tags", _S.list_tags, answer=models.TagData),
    _route("GET", f"{_D}/tags/ID", _S.get_tag, answer=models.TagData),
    _route("POST", f"{_D}/tags/initial", _S.create_initial_tag, body=models.InitialTagCreateRequest,
           answer=_MADE),
    _route("POST", f"{_D}/tags/upsize", _S.enlarge_tags, body=models.TagUpsizeRequest, answer=_MADE),
    _route("POST", f"{_D}/tags", _S.create_tag, body=models.TagCreateRequest, answer=_MADE),
    _route("GET", f"{_D}/embeddings", _S.list_embeddings, answer=models.DatasetEmbeddingData),
    _route("GET", f"{_D}/embeddings/writeCSVUrl", _S.create_embedding, "name", answer=models.WriteCSVUrlData),
    _route("GET", f"{_D}/embeddings/ID/readCSVUrl", _S.embedding_read_url),
    _route("DELETE", f"{_D}/embeddings/ID", _S.delete_embedding),
    _route("POST", f"{_D}/embeddings/ID/trigger2dEmbeddingsJob", _S.map_embedding,
           body=models.Trigger2dEmbeddingJobRequest),
    _route("POST", f"{_D}/embeddings/ID/sampling", _S.select, body=models.SamplingCreateRequest,
           answer=models.AsyncTaskData),
    _route("GET", "/v1/jobs/ID", _S.get_job, answer=models.JobStatusData),
    _route("POST", f"{_D}/predictions/tasks", _S.set_task, "predictionUUIDTimestamp", body=models.PredictionTaskSchema,
           answer=_MADE),
    _route("POST", f"{_D}/predictions/samples/ID", _S.set_predictions, "predictionUUIDTimestamp",
           body=models.PredictionSingleton, answer=_MADE),
    _route("GET", f"{_D}/tags/ID/scores", _S.list_scores, answer=models.TagActiveLearningScoresData),
    _route("GET", f"{_D}/tags/ID/scores/ID", _S.get_scores, answer=models.ActiveLearningScoreData),
    _route("POST", f"{_D}/tags/ID/scores", _S.set_scores, body=models.ActiveLearningScoreCreateRequest,
           answer=_MADE),
    _route("GET", f"{_D}/datasource/all", _S.list_datasources, answer=models.DatasourceConfig),
    _route("PUT", f"{_D}/datasource", _S.set_datasource, body=models.DatasourceConfig),
]  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serves until it is killed, and prints its address first.")
    parser.add_argument("--latency", type=float, default=0.0)
    server = LightlyServer(latency=parser.parse_args().latency, checks=False)
    print(server.url, flush=True)
    server.serve()
