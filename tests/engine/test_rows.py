"""The selection in a real cluster of Ray, whose workers are killed: the picks of one process."""

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from job import embed
from job.embed import spread
from job.engine.choice import Choice
from job.errors import DamagedFileError, Stopped
from job.parts import checked
from job.select import ArrayPoints, greedy, select
from job.select.points import to_unit_length
from job.stopping import Stop
from job.storage import open_folder
from job.texts import Texts
from tests.conftest import S3, settings

ray = pytest.importorskip("ray")

COUNT, DIMENSION = 4000, 16
NAMES = Texts(pa.array([f"{row:05d}.jpg" for row in range(COUNT)]))
_OBJECT_STORE = 80 << 20


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two machines with two cores each."""
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
        variables = {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        options = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": _OBJECT_STORE}
        made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **options})
        made.add_node(**options)
        monkeypatch.setenv("RAY_ADDRESS", made.address)
        yield
        made.shutdown()
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> Stop:
    stop = Stop()
    monkeypatch.setattr(stop, "listen", lambda: None)
    return stop


@pytest.fixture
def embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Embeddings that are in the output, in several groups."""
    monkeypatch.setattr(checked, "_GROUP_ROWS", 500)
    monkeypatch.setattr("job.select.points._VALUES_PER_BLOCK", 500 * DIMENSION)
    for name in ("MIN_VALUES", "_MIN_BLOCK_VALUES"):
        monkeypatch.setattr(spread, name, 1)
    made = to_unit_length(np.random.default_rng(0).normal(size=(COUNT, DIMENSION)))
    embed.table.write(open_folder(str(tmp_path)), NAMES, ArrayPoints(made), "")
    return made


def test_workers_are_killed_between_passes_and_while_they_read(
    cluster: None,
    embeddings: Any,
    stop: Stop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from job.engine.ray.rows import RowWorkers

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(greedy, "_MIN_SHORTLIST", 64)
    seen: list[RowWorkers] = []
    real = RowWorkers.ask

    def disturb(self: RowWorkers, method: str, *more: Any) -> list[Any]:
        seen.append(self)
        if (method, self.num_calls["shortlist"]) in (("shortlist", 1), ("read", 3)):
            ray.kill(self._actors[1])
        return real(self, method, *more)

    monkeypatch.setattr(RowWorkers, "ask", disturb)
    scores = np.random.default_rng(1).random(COUNT).round(2)
    output = open_folder(str(tmp_path))
    ours = settings(output=str(tmp_path), engine="ray", device="cpu")
    with spread.spread(ours, stop, output, ArrayPoints(embeddings)) as points:
        found = select(points, scores, 150)
    assert found.picks == select(embeddings, scores, 150).picks
    assert "4 workers on 2 machines select together" in caplog.text
    assert caplog.text.count("A worker with rows of the selection is lost") == seen[0].num_losses == 2
    assert seen[0].num_calls["shortlist"] > 4
    assert not ray.is_initialized()


def test_a_stop_while_workers_are_waited_for(cluster: None) -> None:
    """Ray turns the error of a handler into another one, which would be an internal error."""
    from job.engine.ray import cluster as joined
    from job.engine.ray.crew import wait_for
    from job.engine.ray.rows import hold_rows

    def stop_soon() -> float:
        threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return time.monotonic()

    def cut(count: int) -> tuple[list[int], list[Any]]:
        begun.append(stop_soon())
        return [0, 1, 2], [partial(time.sleep, 60)] * 2

    begun: list[float] = []
    handler, choice = signal.getsignal(signal.SIGINT), Choice("ray", address=os.environ["RAY_ADDRESS"])
    try:
        with pytest.raises(Stopped), hold_rows(choice, Stop(), cut):
            pytest.fail("it must not begin")
        assert 1 < time.monotonic() - begun[0] < 30
        stop = Stop()
        joined.start(choice, stop)
        call = ray.remote(lambda: time.sleep(60)).options(num_cpus=0).remote()
        start = stop_soon()
        with pytest.raises(Stopped):
            wait_for(call, stop)
        assert 1 < time.monotonic() - start < 30
    finally:
        joined.close()
        signal.signal(signal.SIGINT, handler)


def test_a_small_pool_and_other_strategies_stay_here(
    stop: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(spread, "_spread", lambda *_: pytest.fail("it pays not"))
    points, output = ArrayPoints(np.eye(5)), open_folder(str(tmp_path))
    with spread.spread(settings(output=str(tmp_path)), stop, output, points) as found:
        assert found is points
    monkeypatch.setattr(spread, "MIN_VALUES", 1)
    with spread.spread(settings(output=str(tmp_path), strategy="coral_objects"), stop, output, points) as found:
        assert found is points


def test_a_cluster_that_cannot_is_no_reason_to_fail(
    embeddings: Any, stop: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    points, output = ArrayPoints(embeddings), open_folder(str(tmp_path))
    with spread.spread(settings(output=str(tmp_path), engine="ray"), stop, output, points) as found:
        assert found is points
    assert "This process selects alone, since the cluster cannot: Cannot use the Ray cluster" in caplog.text


@pytest.mark.parametrize("count", [1, 2, 3, 8, 100])
def test_blocks_are_groups_of_the_file(embeddings: Any, tmp_path: Path, count: int) -> None:
    starts, loads = spread.cut(open_folder(str(tmp_path)), str(tmp_path), (COUNT, DIMENSION), count)
    assert len(starts) - 1 == len(loads) == min(count, 8)
    blocks = [load() for load in loads]
    assert [len(block) for block in blocks] == np.diff(starts).tolist()
    assert max(map(len, blocks)) - min(map(len, blocks)) <= 500
    np.testing.assert_array_equal(np.concatenate(blocks), embeddings)


def test_blocks_are_read_from_a_bucket(embeddings: Any, moto: S3) -> None:
    output = open_folder(moto.uri("rows"))
    embed.table.write(output, NAMES, ArrayPoints(embeddings), "")
    _, loads = spread.cut(output, moto.uri("rows"), (COUNT, DIMENSION), 3)
    np.testing.assert_array_equal(np.concatenate([load() for load in loads]), embeddings)


def test_the_embeddings_of_another_run(embeddings: Any, tmp_path: Path) -> None:
    output = open_folder(str(tmp_path))
    with pytest.raises(DamagedFileError, match="it has 4000 rows, and not 4001"):
        spread.cut(output, str(tmp_path), (COUNT + 1, DIMENSION), 2)
    with pytest.raises(DamagedFileError, match="not those of this run"):
        spread.read_block(str(tmp_path), [0], (500, DIMENSION + 1))
    (tmp_path / "embeddings.parquet").unlink()
    with pytest.raises(DamagedFileError, match=r"it is not there.*all machines must reach the output"):
        spread.read_block(str(tmp_path), [0], (500, DIMENSION))
