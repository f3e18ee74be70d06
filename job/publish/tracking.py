"""A finished run in MLflow: settings, figures, and report.html as an artifact.

The calls are those of MLflow's REST API 2.0 (https://mlflow.org/docs/latest/api_reference/rest-api.html). Its client,
mlflow-skinny 3.17, brings 117 MB of packages for these eight calls.

A run is found by its tag ``coralpick.run_id`` before it is created, so that the same run is never logged twice.
"""

import os
import time
from collections.abc import Mapping
from pathlib import PurePosixPath
from threading import Event
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from job.errors import AccessDenied, ServiceUnavailable, SettingsError, TryAgain
from job.publish import REPORT, RUN, SELECTED_TXT
from job.retry import Attempt, Patience, Requests, TransientError
from job.secret import Secret, hide_secrets
from job.storage import Storage, read_required

ADDRESS = "MLFLOW_TRACKING_URI"
_EXPERIMENT = "MLFLOW_EXPERIMENT_NAME"
_DEFAULT_EXPERIMENT = "coralpick"
_TAG = "coralpick.run_id"
_ARTIFACTS = (REPORT, RUN, SELECTED_TXT)
_PROXIED = "mlflow-artifacts"
_TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next data of an answer
_MAX_PARAMETERS = 100  # of one call
_MAX_VALUE = 500  # characters of a parameter in old versions of MLflow
_TEMPORARY = (408, 429, 500, 502, 503, 504)


class Tracker:
    """The tracking server of MLflow that the environment names.

    Args:
        environment: The environment variables.
        stop: When set, the waiting ends.
        patience: Limits of attempts and retries.

    Raises:
        SettingsError: If MLFLOW_TRACKING_URI is not the address of a server.
    """

    def __init__(self, environment: Mapping[str, str], stop: Event, patience: Patience | None = None) -> None:
        self._server = environment.get(ADDRESS, "").rstrip("/")
        if urlsplit(self._server).scheme not in ("http", "https"):
            raise SettingsError(
                f"CORAL_MLFLOW=1 needs a tracking server: set {ADDRESS} to its address, such as http://mlflow:5000."
            )
        address = urlsplit(self._server)
        port = f":{address.port}" if address.port else ""
        self._shown = f"{address.scheme}://{address.hostname}{port}{address.path}"  # without credentials
        self.experiment = environment.get(_EXPERIMENT) or _DEFAULT_EXPERIMENT
        self._requests = Requests(patience or Patience(attempt=60.0), stop)
        self._session = requests.Session()
        if token := environment.get("MLFLOW_TRACKING_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {Secret(token).value}"
        elif user := environment.get("MLFLOW_TRACKING_USERNAME"):
            password = Secret(environment.get("MLFLOW_TRACKING_PASSWORD", ""))
            self._session.auth = (user, password.value)

    def find_experiment(self) -> str | None:
        """The id of the experiment; None if it does not exist.

        Raises:
            JobError: If the server cannot be reached or refuses the request.
        """
        answer = self._call(
            "GET", "experiments/get-by-name", {"experiment_name": self.experiment}, missing_is_none=True
        )
        return None if answer is None else str(answer["experiment"]["experiment_id"])

    def log(self, content: Mapping[str, Any], output: Storage) -> str:
        """Logs a finished run, or completes what an earlier attempt logged of it.

        Args:
            content: Content of run.json.
            output: Folder of the results.

        Returns:
            The address of the run, for people.

        Raises:
            JobError: If the server cannot be reached or refuses a request.
        """
        experiment = self.find_experiment()
        if experiment is None:
            experiment = self._call("POST", "experiments/create", {"name": self.experiment})["experiment_id"]
        info = self._find_run(experiment, content["run_id"]) or self._create_run(experiment, content)
        self._call("POST", "runs/log-batch", {"run_id": info["run_id"], "metrics": _list_metrics(content)})
        for name in _ARTIFACTS:
            self._upload(info["artifact_uri"], name, output)
        ended = {"run_id": info["run_id"], "status": "FINISHED", "end_time": _now()}
        self._call("POST", "runs/update", ended)
        return f"{self._shown}/#/experiments/{experiment}/runs/{info['run_id']}"

    def _find_run(self, experiment: str, run_id: str) -> dict[str, Any] | None:
        query = {"experiment_ids": [experiment], "filter": f"tags.`{_TAG}` = '{run_id}'", "max_results": 1}
        found = self._call("POST", "runs/search", query).get("runs", [])
        return dict(found[0]["info"]) if found else None

    def _create_run(self, experiment: str, content: Mapping[str, Any]) -> dict[str, Any]:
        tags = {_TAG: content["run_id"], "coralpick.version": content["coralpick"]}
        created = self._call(
            "POST",
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": content["run_id"],
                "start_time": _now() - round(1000 * sum(content["seconds"].values())),
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
            },
        )
        info: dict[str, Any] = created["run"]["info"]
        parameters = [
            {"key": name, "value": str(value)[:_MAX_VALUE]}
            for name, value in content["settings"].items()
            if value is not None
        ]
        for first in range(0, len(parameters), _MAX_PARAMETERS):
            batch = parameters[first : first + _MAX_PARAMETERS]
            self._call("POST", "runs/log-batch", {"run_id": info["run_id"], "params": batch})
        return info

    def _upload(self, artifact_uri: str, name: str, output: Storage) -> None:
        location = urlsplit(artifact_uri)
        if location.scheme != _PROXIED:
            raise ServiceUnavailable(
                f"{name} cannot be uploaded to MLflow, which keeps its artifacts at {artifact_uri[:80]!r}: start its "
                "server with --serve-artifacts, and use a new experiment."
            )
        path = quote(str(PurePosixPath(location.path.lstrip("/")) / name))
        self._call("PUT", f"{self._server}/api/2.0/mlflow-artifacts/artifacts/{path}", read_required(output, name))

    def _call(self, method: str, path: str, body: Any, *, missing_is_none: bool = False) -> Any:
        """Makes one call; a path without a server is one of the tracking API."""
        url = path if path.startswith("http") else f"{self._server}/api/2.0/mlflow/{path}"
        content = {"params": body} if method == "GET" else {"data" if isinstance(body, bytes) else "json": body}

        def attempt(current: Attempt) -> Any:
            if isinstance(body, bytes):
                current.expect(len(body))
            try:
                answer = self._session.request(method, url, timeout=_TIMEOUT, **content)
            except requests.RequestException as error:
                raise TransientError(type(error).__name__) from error
            if answer.status_code in _TEMPORARY:
                raise TransientError(f"status {answer.status_code}")
            return answer

        try:
            answer = self._requests.send(attempt)
        except TransientError as error:
            raise TryAgain(f"MLflow at {self._shown} cannot be reached ({error}): check {ADDRESS}.") from None
        if answer.status_code == 404 and missing_is_none:
            return None
        if answer.status_code in (401, 403):
            raise AccessDenied(
                f"MLflow refuses the credentials ({answer.status_code}): check MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
            )
        if not answer.ok:
            reason = hide_secrets(" ".join(answer.text.split())[:200])
            raise ServiceUnavailable(f"MLflow refused a request ({answer.status_code}): {reason}")
        return answer.json() if answer.content else {}


def connect(stop: Event, patience: Patience | None = None) -> Tracker:
    """Makes the tracker of this process's environment."""
    return Tracker(os.environ, stop, patience)


def _list_metrics(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The numbers of run.json: counts, statistics of the picks, and seconds."""
    figures = {
        **{f"images_{name}": value for name, value in content["counts"].items()},
        **content["selection"],
        **{f"seconds_{name.replace(' ', '_')}": value for name, value in content["seconds"].items()},
        "seconds": sum(content["seconds"].values()),
    }
    return [
        {"key": name, "value": value, "timestamp": _now(), "step": 0}
        for name, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _now() -> int:
    """Milliseconds since 1970, as MLflow counts them."""
    return round(1000 * time.time())
