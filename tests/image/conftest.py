"""Fixtures of the tests of the built image: an engine, the image, and the demo's frames in a real S3 server."""

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
    """An authority that the test image trusts, and a certificate of it for the model zoo's host, with its key."""
    folder = tmp_path_factory.mktemp("certificates")
    made = (folder / "authority.pem", folder / "server.pem", folder / "key.pem")
    servers.make_certificates(*made, host=ZOO)
    return made


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A container engine of our own; or the one at ENGINE, to try a test again quickly."""
    if host := os.environ.get("ENGINE"):
        yield Engine(Path(), host)
        return
    missing = [each for each in NEEDED if not shutil.which(each, path=f"{os.environ['PATH']}:/usr/sbin")]
    if missing or os.geteuid():
        needed = f"{', '.join(NEEDED)} (Debian: apt-get install docker.io mmdebstrap)"
        pytest.exit(f"The tests of the image run as root, and need {needed}.", 1)
    # Whatever ends the tests, nothing of the engine stays behind.
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("stopped", 143))
    folder = Path(tempfile.mkdtemp(prefix="coralpick-"))
    built = Engine(folder / "engine")
    try:
        built.start()
        yield built
    finally:
        built.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def base(engine: Engine, certificates: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image; or the one named by BASE_IMAGE, for an engine that has it."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    return make_base(engine, tmp_path_factory.mktemp("base"), certificates[0].read_bytes())


@pytest.fixture(scope="session")
def labels() -> list[str]:
    """What `make image` says about version and commit, as arguments of the build."""
    command = ["make", "--silent", "--no-print-directory", "image-labels"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="session")
def image(engine: Engine, base: str, labels: list[str]) -> str:
    """The image, built as `make image` does, on that base."""
    engine.build(ROOT, TAG, "--build-arg", f"BASE_IMAGE={base}", *labels)
    return TAG


@dataclass
class Pool:
    """Frames of the demo, its model, and results, in a bucket.

    Attributes:
        endpoint: Of the server.
        variables: All of a run but CORAL_OUTPUT.
    """

    endpoint: str
    variables: dict[str, str] = field(default_factory=dict)

    def uri(self, path: str) -> str:
        """The URI of something in the bucket."""
        return S3(self.endpoint).uri(path)

    def read(self, key: str) -> bytes:
        """An object of the bucket."""
        body: bytes = servers.client(self.endpoint).get_object(Bucket=servers.BUCKET, Key=key)["Body"].read()
        return body

    def keys(self, prefix: str) -> list[str]:
        """What lies in a folder of the bucket."""
        listed = servers.client(self.endpoint).list_objects_v2(Bucket=servers.BUCKET, Prefix=prefix)
        return [each["Key"] for each in listed.get("Contents", [])]


@pytest.fixture(scope="session")
def pool(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A SeaweedFS server with 24 frames in `frames/`, all 250 in `clip/`, and the results for both in `expected/`."""
    server = servers.SeaweedFS(tmp_path_factory.mktemp("seaweedfs"))
    server.start()
    client = servers.client(server.endpoint)
    some = frames[:: len(frames) // 24][:24]
    files = {"model/yolov3-tiny.yaml": DEMO_YAML, "model/yolov3-tiny.weights": fetch.WEIGHTS}
    files |= {f"clip/{each.name}": each for each in frames} | {f"frames/{each.name}": each for each in some}
    for key, path in (
        files | {"model/yolov3-tiny.yaml": DEMO_YAML, "model/yolov3-tiny.weights": fetch.WEIGHTS}
    ).items():
        client.put_object(Bucket=servers.BUCKET, Key=key, Body=path.read_bytes())
    made = Pool(server.endpoint)
    made.variables = servers.ADMIN | {
        "AWS_ENDPOINT_URL": server.endpoint,
        "CORAL_INPUT": made.uri("frames"),
        "CORAL_MODEL": made.uri("model/yolov3-tiny.yaml"),
        "CORAL_WEIGHTS": made.uri("model/yolov3-tiny.weights"),
        "CORAL_N_SAMPLES": "5",
        "CORAL_PART_SIZE": "8",
    }
    for folder in ("frames", "clip"):
        ours: dict[str, Any] = {"CORAL_INPUT": made.uri(folder), "CORAL_OUTPUT": made.uri(f"expected/{folder}")}
        process = start_job(**made.variables | ours)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
    yield made
    server.kill()
