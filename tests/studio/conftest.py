"""Fixtures of the tests that run with LightlyStudio's Python: results of the real job, on disk and in a bucket."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.standins import servers

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / ".cache" / "demo"
N_SAMPLES = 5

# The job's Python, which `make test` runs all other tests with, has no LightlyStudio.
if importlib.util.find_spec("lightly_studio") is None:
    collect_ignore_glob = ["test_*.py"]


@dataclass(frozen=True)
class Run:
    """What the real job was given, and where its results are.

    Attributes:
        source: CORAL_INPUT.
        output: CORAL_OUTPUT.
    """

    source: str
    output: str


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process: nothing of ours but what is given."""
    ours = ("CORAL_", "LIGHTLY_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | variables


def run_job(source: str, output: str, **variables: str) -> Run:
    """Runs the job with its own Python and the demo's detector."""
    settings = {
        "CORAL_INPUT": source,
        "CORAL_OUTPUT": output,
        "CORAL_MODEL": "demo/yolov3-tiny.yaml",
        "CORAL_WEIGHTS": str(DEMO / "yolov3-tiny.weights"),
        "CORAL_N_SAMPLES": str(N_SAMPLES),
        "CORAL_PART_SIZE": "8",
        "CORAL_MAX_FAILED": "0.2",
    }
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", "entrypoint.py"], cwd=ROOT, env=environment(**settings, **variables),
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return Run(source, output)


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 real frames, some in a folder below, one turned by its EXIF orientation, and a file that is no image."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("frames")
    (folder / "süd weg").mkdir()
    for number, frame in enumerate(sorted(DEMO.glob("frames/*.jpg"))[::13]):
        (folder / ("süd weg" if number % 3 == 0 else ".") / frame.name).write_bytes(frame.read_bytes())
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(DEMO / "frames" / "frame-132.jpg") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=turned, quality=95)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def local(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a folder."""
    return run_job(str(frames), str(tmp_path_factory.mktemp("results") / "out"), CORAL_LIGHTLY_PREDICTIONS="1")


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server; yields the variables that lead to it, which are set for this process, too."""
    server = servers.SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    variables = servers.ADMIN | {"AWS_ENDPOINT_URL": server.endpoint}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield variables
    server.kill()


@pytest.fixture(scope="session")
def remote(bucket: dict[str, str], frames: Path) -> Run:
    """A run from a bucket to a bucket."""
    client = servers.client(bucket["AWS_ENDPOINT_URL"])
    for each in sorted(frames.rglob("*.jpg")):
        key = f"set 1/{each.relative_to(frames).as_posix()}"
        client.put_object(Bucket=servers.BUCKET, Key=key, Body=each.read_bytes())
    return run_job(f"s3://{servers.BUCKET}/set 1", f"s3://{servers.BUCKET}/results/a", **bucket)


@dataclass(frozen=True)
class Server:
    """`python -m studio`, running.

    Attributes:
        url: Of its GUI.
        printed: The file with all that it has printed.
        connections: The file with the connections it has attempted.
    """

    url: str
    printed: Path
    connections: Path

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer to a request of its API."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return json.loads(answer.read())


@contextlib.contextmanager
def started(run: Run, folder: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """Starts `python -m studio` on a free port and waits until it answers."""
    (port,) = servers.free_ports(1)
    printed, connections = folder / "printed", folder / "connections"
    command = [
        sys.executable, "-m", "tests.studio.watched", str(connections), str(folder / "cache"),
        "--output", run.output, "--port", str(port), *arguments,
    ]  # fmt: skip
    with printed.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(**variables), stdout=file, stderr=file)
    server = Server(f"http://127.0.0.1:{port}", printed, connections)
    try:
        for _ in range(120):
            assert process.poll() is None, printed.read_text()
            with contextlib.suppress(OSError):
                server.ask("/api/version")
                break
            time.sleep(0.5)
        else:
            raise AssertionError(printed.read_text())
        yield server
    finally:
        process.terminate()
        process.wait(30)
