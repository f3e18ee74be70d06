"""CORAL_MLFLOW=1 against a real MLflow server; its refusals against a stand-in."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import requests

from demo import fetch
from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, TryAgain
from job.publish.tracking import Tracker
from job.retry import Patience
from job.storage.local import LocalFolder
from tests.conftest import DEMO_YAML, ROOT, clean_environment
from tests.integrations.tools import use_tool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server, whose artifacts go through it."""
    folder = tmp_path_factory.mktemp("mlflow")
    environment = use_tool("mlflow", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/db.sqlite", "--artifacts-destination", str(folder / "files")]
    command = [sys.executable, "-m", "mlflow", "server", *stores, "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--workers", "1"], env=environment, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert requests.get(f"{address}/health", timeout=5).text == "OK"
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline and process.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def ask(server: str, path: str, body: dict[str, Any]) -> Any:
    answer = requests.post(f"{server}/api/2.0/mlflow/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def run_job(command: str, server: str, output: Path, frames: Path) -> subprocess.CompletedProcess[str]:
    ours = clean_environment(
        CORAL_INPUT=frames, CORAL_OUTPUT=output, CORAL_MODEL=DEMO_YAML, CORAL_WEIGHTS=fetch.WEIGHTS, CORAL_N_SAMPLES=3,
        CORAL_MLFLOW=1, MLFLOW_TRACKING_URI=server,
    )  # fmt: skip
    arguments = [sys.executable, "entrypoint.py", command]
    return subprocess.run(arguments, cwd=ROOT, env=ours, capture_output=True, text=True, check=False, timeout=300)


def test_a_run_is_logged_once_with_settings_figures_and_report(server: str, few_frames: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    checked = run_job("check", server, output, few_frames)
    assert "the experiment 'coralpick' will be created" in checked.stderr + checked.stdout
    for command in ("run", "select"):
        done = run_job(command, server, output, few_frames)
        assert done.returncode == 0, done.stderr
        assert f"The run is logged to MLflow: {server}/#/experiments/" in done.stderr + done.stdout
    run = json.loads((output / "run.json").read_text())
    found = ask(server, "runs/search", {"experiment_ids": ["1"], "max_results": 10})["runs"]
    assert len(found) == 1
    info, data = found[0]["info"], found[0]["data"]
    assert (info["run_name"], info["status"]) == (run["run_id"], "FINISHED")
    parameters = {item["key"]: item["value"] for item in data["params"]}
    assert parameters["CORAL_N_SAMPLES"] == "3"
    assert parameters["CORAL_INPUT"] == str(few_frames)
    metrics = {item["key"]: item["value"] for item in data["metrics"]}
    assert metrics["expected_boxes"] == run["selection"]["expected_boxes"]
    assert metrics["images_selected"] == 3
    path = info["artifact_uri"].removeprefix("mlflow-artifacts:")
    for name in ("report.html", "run.json", "selected.txt"):
        kept = requests.get(f"{server}/api/2.0/mlflow-artifacts/artifacts{path}/{name}", timeout=30).content
        assert kept == (output / name).read_bytes()


@pytest.mark.parametrize("address", ["", "databricks", "file:///tmp/runs"])
def test_an_address_that_is_no_server_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="CORAL_MLFLOW=1 needs a tracking server: set MLFLOW_TRACKING_URI"):
        Tracker({"MLFLOW_TRACKING_URI": address}, Event())


def test_a_server_that_cannot_be_reached_is_for_later_and_its_password_is_not_shown() -> None:
    environment = {"MLFLOW_TRACKING_URI": "http://someone:hidden-word@127.0.0.1:9"}
    with pytest.raises(TryAgain, match=r"MLflow at http://127\.0\.0\.1:9 cannot be reached") as caught:
        Tracker(environment, Event(), Patience(total=0)).find_experiment()
    assert "hidden-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, AccessDenied, r"MLflow refuses the credentials \(401\): check MLFLOW_TRACKING_TOKEN"),
        (403, AccessDenied, r"\(403\)"),
        (503, TryAgain, r"cannot be reached \(status 503\)"),
        (400, ServiceUnavailable, r"MLflow refused a request \(400\): no \*\*\*"),
    ],
)
def test_a_refusal_is_explained(status: int, error: type[JobError], message: str) -> None:
    """A stand-in refuses, and repeats the token that it got: the real server refuses nobody by itself."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"no " + self.headers["Authorization"].removeprefix("Bearer ").encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as standin:
        Thread(target=standin.serve_forever, daemon=True).start()
        environment = {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{standin.server_port}",
            "MLFLOW_TRACKING_TOKEN": "a-secret-token",
        }
        with pytest.raises(error, match=message):
            Tracker(environment, Event(), Patience(total=0)).find_experiment()
        standin.shutdown()


def test_a_result_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """Somebody may have deleted it since it was written."""
    run = {"info": {"run_id": "1", "artifact_uri": "mlflow-artifacts:/1"}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"experiment": {"experiment_id": "1"}, "runs": [run]}).encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as standin:
        Thread(target=standin.serve_forever, daemon=True).start()
        tracker = Tracker({"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{standin.server_port}"}, Event())
        content: dict[str, Any] = {"run_id": "1", "counts": {}, "selection": {}, "seconds": {}}
        with pytest.raises(ServiceUnavailable, match=r"Cannot read .*/report\.html: No such file or directory\."):
            tracker.log(content, LocalFolder(str(tmp_path)))
        standin.shutdown()
