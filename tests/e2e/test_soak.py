"""A job that is killed at random points resumes and writes the same bytes; `make soak` repeats it on the demo pool."""

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import S3, demo_variables, start_job
from tests.standins.servers import ADMIN, BUCKET, SeaweedFS, client

WAYS = ("SIGKILL", "SIGTERM", "server")
RESULTS = (
    "selected.txt",
    "selected.csv",
    "selected.jsonl",
    "images.parquet",
    "detections.parquet",
    "embeddings.parquet",
)
# How often `make soak` kills the job or the server.
KILLS = int(os.environ.get("SOAK_KILLS", "20"))


class Pool:
    """Frames in a server of its own, which may be killed."""

    def __init__(self, folder: Path, frames: list[Path]) -> None:
        self.server = SeaweedFS(folder)
        self.server.start()
        self.client = client(self.server.endpoint)
        for frame in frames:
            self.client.put_object(Bucket=BUCKET, Key=f"pool/{frame.name}", Body=frame.read_bytes())
        start = time.monotonic()
        self.expected = self.run("undisturbed")
        self.seconds = time.monotonic() - start

    def variables(self, out: str, **more: Any) -> dict[str, Any]:
        uri = S3(self.server.endpoint).uri
        ours = ADMIN | {"AWS_ENDPOINT_URL": self.server.endpoint, "CORAL_PART_SIZE": 16}
        return demo_variables(uri("pool"), uri(out), **ours | more)

    def start(self, out: str, *arguments: str, **more: Any) -> subprocess.Popen[str]:
        return start_job(*arguments, **self.variables(out, **more))

    def run(self, out: str) -> dict[str, bytes]:
        process = self.start(out)
        text, _ = process.communicate(timeout=600)
        assert process.returncode == 0, text
        return self.results(out)

    def results(self, out: str) -> dict[str, bytes]:
        return {
            name: self.client.get_object(Bucket=BUCKET, Key=f"{out}/{name}")["Body"].read() for name in RESULTS
        }  # fmt: skip

    def disturb(self, out: str, way: str, after: float) -> str:
        """Starts a run and disturbs it; returns how it ended."""
        process = self.start(out)
        time.sleep(after)
        if way == "server":
            self.server.kill()
            restart = threading.Timer(1.0, self.server.start)
            restart.start()
            process.wait(timeout=600)  # it waits for the server, and comes to its end
            restart.join()
            assert process.returncode == 0, process.communicate()[0]
        else:
            process.send_signal(getattr(signal, way))
            began = time.monotonic()
            process.wait(timeout=60)
            assert time.monotonic() - began < 20
            # 143 once the job has taken charge of the signal; before that Python dies of it; 0 when it was late.
            assert process.returncode in {"SIGKILL": (-9, 0), "SIGTERM": (143, -15, 0)}[way]
        process.communicate()
        return f"{way} after {after:.1f} s: {process.returncode}"

    def disturbed(self, rounds: int, seed: int) -> Iterator[tuple[str, dict[str, bytes]]]:
        """Disturbs a run after another and finishes each; yields what happened and what came out."""
        rng = random.Random(seed)
        for number in range(rounds):
            told = self.disturb(f"out-{number}", WAYS[number % len(WAYS)], rng.uniform(0, self.seconds))
            print(told)
            yield told, self.run(f"out-{number}")

    def in_shards(self, count: int) -> dict[str, bytes]:
        out = f"shards-{count}"
        processes = [self.start(out, CORAL_SHARD_INDEX=index, CORAL_SHARD_COUNT=count) for index in range(count)]
        for process in processes:
            text, _ = process.communicate(timeout=600)
            assert process.returncode == 0, text
        return self.results(out)


@pytest.fixture
def few(frames: list[Path], tmp_path: Path) -> Iterator[Pool]:
    pool = Pool(tmp_path / "server", frames[::5])
    yield pool
    pool.server.kill()


def test_killed_at_random_points(few: Pool) -> None:
    for told, results in few.disturbed(rounds=3, seed=1):
        assert results == few.expected, told


@pytest.fixture(scope="module")
def whole(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    pool = Pool(tmp_path_factory.mktemp("server"), frames)
    yield pool
    pool.server.kill()


@pytest.mark.soak
def test_the_whole_pool_killed_many_times(whole: Pool) -> None:
    for told, results in whole.disturbed(rounds=KILLS, seed=0):
        assert results == whole.expected, told


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_whole_pool_in_shards(whole: Pool, count: int) -> None:
    assert whole.in_shards(count) == whole.expected
