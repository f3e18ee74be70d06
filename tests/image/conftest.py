"""Fixtures for the tests of the built image: an engine, the image, and the demo's frames in a real S3 server."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from demo import fetch
from tests.conftest import DEMO_YAML, ROOT, S3, start_job
from tests.image.engine import ZOO, Engine, make_base
from tests.standins import servers

TAG = "coralpick-test"
NEEDED = ("dockerd", "docker", "mmdebstrap")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """An authority that the test image trusts, and its certificate for the model zoo's host, with the key."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, certificate, key = folder / "authority.pem", folder / "server.pem", folder / "key.pem"
    servers.make_certificates(authority, certificate, key, host=ZOO)
    return authority, certificate, key


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine for these tests alone, or the one at ENGINE, to repeat a test quickly."""
    if host := os.environ.get("ENGINE"):
        yield Engine(Path(), host)
        return
    missing = [program for program in NEEDED if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing or os.geteuid():
        needed = f"{', '.join(NEEDED)} (Debian: apt-get install docker.io mmdebstrap)"
        pytest.exit(f"The tests of the image must run as root and need {needed}.", 1)
    # The engine is removed even if a signal ends the tests.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("stopped", 143))
    folder = Path(tempfile.mkdtemp(prefix="coralpick-"))
    started = Engine(folder / "engine")
    try:
        started.start()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def base(engine: Engine, certificates: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image, or the one that BASE_IMAGE names, for an engine that has it."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    return make_base(engine, tmp_path_factory.mktemp("base"), certificates[0].read_bytes())


@pytest.fixture(scope="session")
def labels() -> list[str]:
    """The build arguments of `make image` for version and commit."""
    command = ["make", "--silent", "--no-print-directory", "image-labels"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="session")
def image(engine: Engine, base: str, labels: list[str]) -> str:
    """The image, built on that base as `make image` builds it."""
    engine.build(ROOT, TAG, "--build-arg", f"BASE_IMAGE={base}", *labels)
    return TAG


@dataclass
class Pool:
    """A bucket with frames of the demo, its model and the expected results.

    Attributes:
        endpoint: URL of the S3 server.
        variables: The environment variables of a run, except CORAL_OUTPUT.
    """

    endpoint: str
    variables: dict[str, str] = field(default_factory=dict)

    def uri(self, path: str) -> str:
        """The URI of a path in the bucket."""
        return S3(self.endpoint).uri(path)

    def read(self, key: str) -> bytes:
        """The content of an object."""
        body: bytes = servers.client(self.endpoint).get_object(Bucket=servers.BUCKET, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str) -> list[str]:
        """The keys of the objects in a folder."""
        listed = servers.client(self.endpoint).list_objects_v2(Bucket=servers.BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in listed.get("Contents", [])]


@pytest.fixture(scope="session")
def pool(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A SeaweedFS server with 24 frames in `frames/`, all 250 in `clip/`, and the results for both in `expected/`."""
    server = servers.SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    client = servers.client(server.endpoint)
    files = {"model/yolov3-tiny.yaml": DEMO_YAML, "model/yolov3-tiny.weights": fetch.WEIGHTS}
    files |= {f"clip/{frame.name}": frame for frame in frames}
    files |= {f"frames/{frame.name}": frame for frame in frames[:: len(frames) // 24][:24]}
    for key, path in files.items():
        client.put_object(Bucket=servers.BUCKET, Key=key, Body=path.read_bytes())
    stored = Pool(server.endpoint)
    stored.variables = servers.ADMIN | {
        "AWS_ENDPOINT_URL": server.endpoint,
        "CORAL_INPUT": stored.uri("frames"),
        "CORAL_MODEL": stored.uri("model/yolov3-tiny.yaml"),
        "CORAL_WEIGHTS": stored.uri("model/yolov3-tiny.weights"),
        "CORAL_N_SAMPLES": "5",
        "CORAL_PART_SIZE": "8",
    }
    for folder in ("frames", "clip"):
        folders: dict[str, Any] = {
            "CORAL_INPUT": stored.uri(folder),
            "CORAL_OUTPUT": stored.uri(f"expected/{folder}"),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("OMP_NUM_THREADS", raising=False)  # containers do not get it, and it changes last digits
            process = start_job(**stored.variables | folders)
        log, _ = process.communicate(timeout=600)
        assert process.returncode == 0, log
    yield stored
    server.kill()
