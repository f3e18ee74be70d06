"""The map step on a real Ray, whose nodes and workers are killed: the same bytes as one process.

The GPUs are pretended: Ray lends out as many as it is told, and a worker that finds none computes on the CPU.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import fetch
from tests.conftest import ROOT, clean_environment, demo_variables, start_job
from tests.e2e.test_kills import content
from tests.standins.poison.sitecustomize import POISON

pytest.importorskip("ray")

_OBJECT_STORE = 80 << 20
_MAX_SECONDS = 240.0


@pytest.fixture(scope="module", autouse=True)
def _own_ray() -> Iterator[None]:
    """A folder and a token of its own. The path of a socket in it may have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
        patch = pytest.MonkeyPatch()
        for name, value in variables.items():
            patch.setenv(name, value)
        yield
        patch.undo()


@pytest.fixture(scope="module")
def source(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for frame in frames[::12]:
        shutil.copy(frame, folder / frame.name)
    (folder / "none.jpg").write_bytes(b"no image")
    return folder


def variables(source: Path, output: Path, **more: Any) -> dict[str, Any]:
    given = {"CORAL_PART_SIZE": 2, "OMP_NUM_THREADS": 1, "CORAL_MAX_FAILED": 0.1}
    return demo_variables(source, output, **given | more)


def run(source: Path, output: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "entrypoint.py", "run"],
        cwd=ROOT, env=clean_environment(**variables(source, output, **more)), capture_output=True, text=True,
        timeout=_MAX_SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files of a run in one process."""
    output = tmp_path_factory.mktemp("one") / "out"
    ended = run(source, output)
    assert ended.returncode == 0, ended.stderr
    return content(output)


class TwoNodes:
    """A cluster on this machine: a head without a GPU, and nodes with one pretended GPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "num_gpus": 0, "object_store_memory": _OBJECT_STORE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes: list[Any] = []

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def have(self, count: int) -> None:
        while len(self._nodes) < count:
            self.add_node()
        while len(self._nodes) > count:
            self.kill_node()

    def add_node(self) -> None:
        self._nodes.append(self._cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=_OBJECT_STORE))

    def kill_node(self) -> None:
        self._cluster.remove_node(self._nodes.pop(0), allow_graceful=False)

    def list_workers(self) -> list[int]:
        """Lists the processes of the workers of the job."""
        raylets = {info.process.pid for node in self._nodes for info in node.all_processes["raylet"]}
        return [pid for pid, parent, name in processes() if parent in raylets and name.startswith("ray::Worker")]

    def close(self) -> None:
        self._cluster.shutdown()


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, parent and command line of each process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        yield int(folder.name), parent, name


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    nodes = TwoNodes()
    yield nodes
    nodes.close()


def wait_for_parts(output: Path, count: int, job: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + _MAX_SECONDS
    while len(list(output.glob("parts/part-*"))) < count:
        assert time.monotonic() < end and job.poll() is None, job.communicate(timeout=10)[0]
        time.sleep(0.02)


def finish(job: "subprocess.Popen[str]") -> tuple[int, str]:
    text, _ = job.communicate(timeout=_MAX_SECONDS)
    return job.returncode, text


Disturb = Callable[[TwoNodes, Path, "subprocess.Popen[str]"], None]


def do_nothing(cluster: TwoNodes, output: Path, job: "subprocess.Popen[str]") -> None:
    pass


def kill_worker(cluster: TwoNodes, output: Path, job: "subprocess.Popen[str]") -> None:
    os.kill(cluster.list_workers()[0], signal.SIGKILL)


def kill_node(cluster: TwoNodes, output: Path, job: "subprocess.Popen[str]") -> None:
    cluster.kill_node()


def add_node(cluster: TwoNodes, output: Path, job: "subprocess.Popen[str]") -> None:
    """Adds a node, and holds the other worker until the new one has written a part, however slow the machine is."""
    held = cluster.list_workers()
    for process in held:
        os.kill(process, signal.SIGSTOP)
    try:
        cluster.add_node()
        wait_for_parts(output, len(list(output.glob("parts/part-*"))) + 1, job)
    finally:
        for process in held:
            os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize(
    ("nodes", "disturb", "said"),
    [
        (2, do_nothing, r"Ray cluster at .*: one worker for each GPU\."),
        (2, kill_worker, r"is lost \(its process ended\): \d pieces? goe?s? to other workers"),
        (2, kill_node, r"is lost \(.*\): \d pieces? goe?s? to other workers"),
        (1, add_node, r"Worker 2 has loaded the model"),
    ],
    ids=["undisturbed", "a worker is killed", "a node is killed", "a node joins"],
)
def test_a_cluster_writes_the_bytes_of_one_process(
    cluster: TwoNodes, source: Path, expected: dict[str, bytes], tmp_path: Path, nodes: int,
    disturb: Disturb, said: str,
) -> None:  # fmt: skip
    cluster.have(nodes)
    job = start_job("run", **variables(source, tmp_path / "out", RAY_ADDRESS=cluster.address))
    wait_for_parts(tmp_path / "out", 1, job)
    disturb(cluster, tmp_path / "out", job)
    code, text = finish(job)
    assert code == 0, text
    assert re.search(said, text), text
    assert text.count("'none.jpg' cannot be used") == 1
    assert content(tmp_path / "out") == expected


def test_a_stopped_job_saves_the_work_of_all_workers_and_goes_on(
    source: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    given = variables(source, tmp_path / "out", CORAL_ENGINE="ray", CORAL_WORKERS=2)
    job = start_job("run", **given)
    wait_for_parts(tmp_path / "out", 1, job)
    job.send_signal(signal.SIGTERM)
    code, text = finish(job)
    assert code == 143 and "finished work is saved" in text, text
    saved = len(list((tmp_path / "out").glob("parts/part-*")))
    again = run(source, tmp_path / "out", CORAL_ENGINE="none")
    assert again.returncode == 0, again.stderr
    assert re.search(r"[1-9]\d* of 22 images are already finished", again.stderr), (saved, again.stderr)
    # Workers save the parts that they are at, so parts are cut elsewhere.
    found = {path: data for path, data in content(tmp_path / "out").items() if not path.startswith("parts/")}
    assert found == {path: data for path, data in expected.items() if not path.startswith("parts/")}


def test_a_killed_job_goes_on(source: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    given = variables(source, tmp_path / "out", CORAL_ENGINE="ray", CORAL_WORKERS=2)
    job = start_job("run", **given)
    wait_for_parts(tmp_path / "out", 2, job)
    job.kill()
    finish(job)
    again = run(source, tmp_path / "out", CORAL_ENGINE="ray", CORAL_WORKERS=2)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "out") == expected


def test_workers_share_the_frames_of_a_video(tmp_path: Path) -> None:
    """Each worker opens the video itself, and goes to the frames of its pieces."""
    fetch.fetch()
    (tmp_path / "in").mkdir()
    shutil.copy(fetch.VIDEO, tmp_path / "in" / "bikes.mp4")
    assert run(tmp_path / "in", tmp_path / "one", CORAL_FRAMES="every:20").returncode == 0
    given = {"CORAL_ENGINE": "ray", "CORAL_WORKERS": 2, "CORAL_FRAMES": "every:20"}
    job = start_job("run", **variables(tmp_path / "in", tmp_path / "out", **given))
    wait_for_parts(tmp_path / "out", 2, job)
    job.kill()
    finish(job)
    again = run(tmp_path / "in", tmp_path / "out", **given)
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "out") == content(tmp_path / "one")
    assert len(content(tmp_path / "one")) > 10


def test_an_image_that_kills_its_worker_becomes_a_failed_row(source: Path, frames: list[Path], tmp_path: Path) -> None:
    for folder in ("in", "without"):
        shutil.copytree(source, tmp_path / folder, ignore=lambda _, names: sorted(names)[14:])
    (tmp_path / "in" / "frame-010.jpg").write_bytes(frames[9].read_bytes() + POISON)
    path = f"{ROOT / 'tests/standins/poison'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    more = {"CORAL_ENGINE": "ray", "CORAL_WORKERS": 2, "CORAL_PART_SIZE": 4, "PYTHONPATH": path}
    ended = run(tmp_path / "in", tmp_path / "out", **more)
    assert ended.returncode == 0, ended.stderr
    failures = (tmp_path / "out" / "failures.jsonl").read_text()
    assert "frame-010.jpg" in failures and "ends each time (5 times)" in failures  # 3 for the piece, 1 for each half
    assert len(failures.splitlines()) == 1
    assert run(tmp_path / "without", tmp_path / "expected").returncode == 0
    assert (tmp_path / "out/selected.txt").read_bytes() == (tmp_path / "expected/selected.txt").read_bytes()


def test_the_error_of_a_worker_ends_the_job_with_its_exit_code(cluster: TwoNodes, source: Path, tmp_path: Path) -> None:
    cluster.have(1)
    ended = run(source, tmp_path / "out", RAY_ADDRESS=cluster.address, CORAL_REQUIRE_GPU=1)
    assert ended.returncode == 69, ended.stderr
    assert "CORAL_REQUIRE_GPU=1 forbids falling back to the CPU" in ended.stderr


CANARY = "canary-of-a-secret-key"


def find_canary() -> list[str]:
    """The files in Ray's folder that hold the secret."""
    folder = Path(os.environ["RAY_TMPDIR"])
    return [path.name for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


@pytest.mark.parametrize(("count", "workers"), [(3, 3), (1, 0)])
def test_each_gpu_of_the_machine_gets_a_worker(
    source: Path, expected: dict[str, bytes], tmp_path: Path, count: int, workers: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.standins.pretended_gpus", str(count), "run"],
        cwd=ROOT, env=clean_environment(**variables(source, tmp_path / "out", AWS_SECRET_ACCESS_KEY=CANARY)),
        capture_output=True, text=True,
        timeout=_MAX_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("has loaded the model") == workers
    assert ("3 GPUs: 3 workers in a local Ray." in ended.stderr) == (workers == 3)
    assert ended.stdout.splitlines()[-1] == str(workers > 0), "one GPU needs no Ray"
    assert content(tmp_path / "out") == expected
    assert find_canary() == [], "Ray keeps nothing of the environment in its files"
