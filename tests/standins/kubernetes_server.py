"""A stand-in for a Kubernetes API server, since no package has one: the part that kubectl needs to run Jobs.

It keeps objects, applies merge patches and streams changes. A function decides how each Job that is not suspended ends.
It checks nothing: other tests check the manifests against the real schemas.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]
_KINDS = {
    "configmaps": "ConfigMap",
    "serviceaccounts": "ServiceAccount",
    "pods": "Pod",
    "events": "Event",
    "jobs": "Job",
}
_VERBS = ["create", "delete", "get", "list", "patch", "watch"]


class KubernetesServer:
    """Objects, and the outcomes of the Jobs among them.

    Attributes:
        objects: By namespace, resource and name.
        hiccups: How many of the next requests for Jobs are refused.
        started: Jobs in the order in which they were started, as they were then.
        refusals: Reason (such as Invalid) for which objects are not created, by their name.
        forbidden: HTTP methods that are answered with Forbidden.
        endpoint: Where it listens.
    """

    def __init__(self, outcome: Callable[[Object], str | None]) -> None:
        """Takes a function that runs a Job and returns the reason if it failed."""
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.hiccups = 0
        self.started: list[Object] = []
        self.refusals: dict[str, str] = {}
        self.forbidden: set[str] = set()
        self._outcome = outcome
        self._version = 0
        self._changed = threading.Condition(threading.RLock())
        self._running: set[tuple[str, str, str]] = set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *values: Any) -> None: ...

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                with contextlib.suppress(ConnectionError):
                    server._answer(self, json.loads(body) if body else {})

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["KubernetesServer"]:
        """Serves within the context."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: Object) -> None:
        url = urlsplit(handler.path)
        if (known := _discovery(url.path)) is not None:
            _send(handler, 200, known)
            return
        namespace, resource, name, *_ = [*url.path.partition("/namespaces/")[2].split("/"), "", "", ""]
        if resource == "jobs" and self.hiccups:
            self.hiccups -= 1
            _send(handler, 500, _status(500, "out of breath"))
            return
        if resource not in _KINDS:
            _send(handler, 404, _status(404, f"no {url.path}"))
            return
        query = parse_qs(url.query)
        if handler.command in self.forbidden:
            _send(handler, 403, _status(403, f"cannot {handler.command.lower()} resource", "Forbidden"))
            return
        if url.path.endswith("/log"):
            _send_text(handler, f"the last line of {name}\n")
            return
        if handler.command == "GET" and not name:
            self._list(handler, namespace, resource, query)
            return
        key = (namespace, resource, name or body["metadata"]["name"])
        if handler.command == "POST" and (refusal := self._refuse(key)):
            _send(handler, *refusal)
            return
        if "dryRun" in query:
            _send(handler, 201, body)
            return
        _send(handler, *self._change(handler.command, key, body))

    def _refuse(self, key: tuple[str, str, str]) -> tuple[int, Object] | None:
        if reason := self.refusals.get(key[2]):
            return 422, _status(422, f"{key[1]} {key[2]} must be different", reason)
        if key in self.objects:
            return 409, _status(409, f"{key[1]} {key[2]} already exists", "AlreadyExists")
        return None

    def _change(self, method: str, key: tuple[str, str, str], body: Object) -> tuple[int, Object]:
        namespace, resource, name = key
        with self._changed:
            if method != "POST" and key not in self.objects:
                return 404, _status(404, f'{resource} "{name}" not found')
            if method == "DELETE":
                self.objects.pop(key)
                return 200, _status(200, "")
            if method == "GET":
                return 200, self.objects[key]
            self._version += 1
            changed = _merged(self.objects[key], body) if method == "PATCH" else body
            identity = {"namespace": namespace, "uid": name, "resourceVersion": str(self._version)}
            changed["metadata"] |= identity
            self.objects[key] = changed
            self._changed.notify_all()
            begun = key in self._running or "status" in changed
            if resource == "jobs" and not changed["spec"].get("suspend") and not begun:
                self._running.add(key)
                self.started.append(changed)
                threading.Thread(target=self._carry_out, args=(key,), daemon=True).start()
            return (201 if method == "POST" else 200), changed

    def _carry_out(self, key: tuple[str, str, str]) -> None:
        failure = self._outcome(self.objects[key])
        condition = {"type": "Failed" if failure else "Complete", "status": "True"}
        if failure:
            condition |= {"reason": failure, "message": "see the pods"}
        with self._changed:
            self._running.discard(key)
            self._change("PATCH", key, {"status": {"conditions": [condition]}})

    def _list(
        self, handler: BaseHTTPRequestHandler, namespace: str, resource: str, query: dict[str, list[str]]
    ) -> None:
        selector = query.get("fieldSelector", [""])[0]
        name = selector.removeprefix("metadata.name=")
        with self._changed:
            found = [
                each
                for key, each in self.objects.items()
                if key[:2] == (namespace, resource) and _matches(each, selector)
            ]
            seen = self._version
        kind = _KINDS[resource]
        if "watch" not in query:
            version = "batch/v1" if resource == "jobs" else "v1"
            listed = {"kind": f"{kind}List", "apiVersion": version, "metadata": {"resourceVersion": str(seen)}}
            _send(handler, 200, listed | {"items": found})
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.close_connection = True
        deadline = time.monotonic() + 60
        seen = int(query.get("resourceVersion", ["0"])[0])
        while time.monotonic() < deadline and not self.hiccups:
            with self._changed:
                changed = self.objects.get((namespace, resource, name))
                if changed is None or int(changed["metadata"]["resourceVersion"]) <= seen:
                    self._changed.wait(0.5)
                    continue
                seen = int(changed["metadata"]["resourceVersion"])
            handler.wfile.write(json.dumps({"type": "MODIFIED", "object": changed}).encode() + b"\n")
            handler.wfile.flush()


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _matches(item: Object, selector: str) -> bool:
    """Whether an object has the value that a field selector such as ``status.phase=Failed`` names."""
    path, _, expected = selector.partition("=")
    value: Any = item
    for name in path.split(".") if path else []:
        value = value.get(name, {})
    return not path or value == expected


def _status(code: int, message: str, reason: str = "") -> Object:
    reason = reason or {404: "NotFound"}.get(code, "")
    outcome = "Success" if code == 200 else "Failure"
    return {"kind": "Status", "apiVersion": "v1", "status": outcome, "reason": reason, "code": code, "message": message}


def _discovery(path: str) -> Object | None:
    """Answers kubectl's first requests: which kinds exist, and that the server itself validates objects."""
    core = [each for each in _KINDS if each != "jobs"]
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        batch = {"groupVersion": "batch/v1", "version": "v1"}
        offered = {"name": "batch", "versions": [batch], "preferredVersion": batch}
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [offered]}
    if path in ("/api/v1", "/apis/batch/v1"):
        resources = core if path == "/api/v1" else ["jobs"]
        listed = [
            {"name": each, "singularName": each[:-1], "namespaced": True, "kind": _KINDS[each], "verbs": _VERBS}
            for each in resources
        ]
        return {"kind": "APIResourceList", "groupVersion": path.split("/", 2)[2], "resources": listed}
    if path == "/openapi/v3":
        return {"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}"} for each in ("api/v1", "apis/batch/v1")}}
    if path.startswith("/openapi/v3/"):
        group, resources = ("batch", ["jobs"]) if "batch" in path else ("", core)
        operations = {
            f"{path.removeprefix('/openapi/v3')}/namespaces/{{namespace}}/{each}/{{name}}": {
                "patch": {
                    "x-kubernetes-group-version-kind": {"group": group, "version": "v1", "kind": _KINDS[each]},
                    "parameters": [{"name": "fieldValidation", "in": "query"}],
                }
            }
            for each in resources
        }
        return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "1"}, "paths": operations}
    return None


def _send(handler: BaseHTTPRequestHandler, code: int, answer: Object) -> None:
    _send_data(handler, code, "application/json", json.dumps(answer).encode())


def _send_text(handler: BaseHTTPRequestHandler, text: str) -> None:
    _send_data(handler, 200, "text/plain", text.encode())


def _send_data(handler: BaseHTTPRequestHandler, code: int, kind: str, data: bytes) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)
