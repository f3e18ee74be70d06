"""The job with a Lightly token, as a process through entrypoint.py, on the demo's 250 frames."""

import json
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from demo import fetch
from job import names, pipeline
from job.errors import SettingsError, TryAgain
from job.lightly import transport
from job.settings.resolve import resolve
from job.shards import Shard
from job.stopping import Stop
from tests.conftest import Job, demo_variables, start_job
from tests.standins.lightly_client import IMPATIENT, state
from tests.standins.lightly_server import TOKEN, Fault, LightlyServer

RESULTS = (
    "selected.txt",
    "selected.csv",
    "selected.jsonl",
    "images.parquet",
    "detections.parquet",
    "embeddings.parquet",
    "failures.jsonl",
)


def variables(output: Path, server: LightlyServer | str, **more: Any) -> dict[str, Any]:
    return demo_variables(
        fetch.FRAMES, output,
        LIGHTLY_TOKEN=TOKEN, CORAL_LIGHTLY_DATASET="demo", CORAL_PART_SIZE=100, CORAL_N_SAMPLES=20,
        NO_PROXY="127.0.0.1", LIGHTLY_SERVER_LOCATION=server if isinstance(server, str) else server.url, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """One undisturbed run, and what the server holds after it."""
    output = tmp_path_factory.mktemp("lightly") / "out"
    with LightlyServer().running() as running:
        process = start_job(**variables(output, running))
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text
        yield {"server": running, "output": output, "state": state(running.dataset("demo")), "text": text}
        assert not running.unexpected()


def results(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in RESULTS}


def fresh(done: dict[str, Any], output: Path) -> Path:
    """An output in which all is detected and nothing is uploaded."""
    (output / "parts").mkdir(parents=True)
    for each in (done["output"] / "parts").iterdir():
        if not each.name.startswith("done-"):
            shutil.copyfile(each, output / "parts" / each.name)
    return output


def test_the_platform_holds_what_the_output_says(done: dict[str, Any]) -> None:
    output, held, dataset = done["output"], done["state"], done["server"].dataset("demo")
    assert len(held["samples"]) == 250 and len({name for name, *_ in held["samples"]}) == 250
    rows = {each["file_name"]: each for each in pq.read_table(output / "images.parquet").to_pylist()}
    for name, _, files, predictions in held["samples"]:
        assert len(predictions) == rows[name]["num_boxes"]
        assert files["thumb"].startswith(b"\xff\xd8") and files.keys() == {"thumb"}
    table = pq.read_table(output / "embeddings.parquet").to_pydict()
    (embedding,) = dataset.embeddings
    vectors = dataset.vectors(embedding)
    assert vectors.keys() == set(table["file_name"]) and embedding.maps == ["PCA", "TSNE", "UMAP"]
    assert dataset.names() != table["file_name"], "the platform has an order of its own"
    for name, vector in zip(table["file_name"], table["embedding"], strict=True):
        np.testing.assert_array_equal(vectors[name], np.array(vector, np.float32))
    kinds = {kind for _, kind in held["scores"]}
    assert len(kinds) == 5
    for kind in kinds:
        assert held["scores"]["initial-tag", kind] == {name: row[kind] for name, row in rows.items()}
    run = json.loads((output / "run.json").read_text())
    selected = names.parse((output / "selected.txt").read_text())
    assert held["tags"].keys() == {"initial-tag", f"coral-20-{run['run_id']}"}
    assert held["tags"][f"coral-20-{run['run_id']}"] == (sorted(selected), 250)
    assert run["selected_by"] == "local" and (output / "_SUCCESS").exists()


def test_the_token_is_in_no_output(done: dict[str, Any]) -> None:
    assert TOKEN not in done["text"]
    files = [path for path in done["output"].rglob("*") if path.is_file()]
    assert len(files) > 250 and not [path for path in files if TOKEN.encode() in path.read_bytes()]


def test_again_there_is_nothing_new(done: dict[str, Any], job: Job) -> None:
    before, calls = results(done["output"]), done["server"].calls.copy()
    ran = job("select", **variables(done["output"], done["server"]))
    assert ran.returncode == 0, ran.stderr
    assert "All images are already in Lightly's dataset 'demo'." in ran.stderr
    assert results(done["output"]) == before and state(done["server"].dataset("demo")) == done["state"]
    more = {name for name, count in done["server"].calls.items() if count > calls[name]}
    assert all(name.startswith(("list_", "find_", "get_", "minimum_")) for name in more)


def test_killed_at_five_points_and_disturbed_it_ends_the_same(
    done: dict[str, Any], server: LightlyServer, tmp_path: Path, job: Job
) -> None:
    output, shown = fresh(done, tmp_path / "out"), []
    rng = random.Random(5)
    total = done["server"].calls.total()
    for number, point in enumerate([*sorted(rng.sample(range(5, total), 4)), total]):
        process = start_job("select", **variables(output, server))

        with_, code = (signal.SIGTERM, 143) if number == 2 else (signal.SIGKILL, -9)

        def kill(_: str, point: int = point, with_: signal.Signals = with_) -> None:
            if server.calls.total() >= point:
                process.send_signal(with_)  # noqa: B023  # it is set before the server is called

        server.on_call = kill
        text, _ = process.communicate(timeout=300)
        shown.append(text)
        assert process.returncode == code, text
    server.on_call = lambda name: None
    server.fail("set_predictions", Fault("reset", 3), Fault(500, 3), Fault(429, 1))
    server.fail("list_mappings", Fault("lost", 1), Fault(503, 1))
    ran = job("select", **variables(output, server))
    assert ran.returncode == 0, ran.stderr
    assert state(server.dataset("demo")) == done["state"] and not server.unexpected()
    assert results(output) == results(done["output"])
    assert TOKEN not in "".join([*shown, ran.stdout, ran.stderr])


def test_the_platforms_answer_is_taken(
    done: dict[str, Any], server: LightlyServer, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = fresh(done, tmp_path / "out")
    ran = job("select", **variables(output, server, CORAL_LIGHTLY_SELECT="platform"))
    assert ran.returncode == 0, ran.stderr
    picks = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    rows = pq.read_table(output / "images.parquet").to_pylist()
    lowest = sorted(rows, key=lambda each: (each["uncertainty_entropy"], each["file_name"]))[:20]
    assert {each["file_name"] for each in picks} == {each["file_name"] for each in lowest}
    assert all(each["reason"].startswith("picked by Lightly; ") for each in picks)
    assert [each["rank"] for each in picks] == list(range(1, 21))
    assert json.loads((output / "run.json").read_text())["selected_by"] == "platform"
    assert "the highest score of Lightly's picks" in picks[0]["reason"]
    assert (output / "_SUCCESS").exists() and server.calls["select"] == 1

    # Asked again while the platform is away, the job keeps the answer that is there.
    before = results(output)
    monkeypatch.setattr(transport, "_PATIENCE", IMPATIENT)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    away = variables(output, "http://127.0.0.1:9", CORAL_LIGHTLY_SELECT="platform")
    with pytest.raises(TryAgain):
        pipeline.select(resolve({}, {name: str(value) for name, value in away.items()}), Stop())
    assert results(output) == before


def test_several_shards_leave_the_upload_to_select(tmp_path: Path) -> None:
    given = variables(tmp_path / "out", "http://127.0.0.1:9")
    with pytest.raises(SettingsError, match="in the shards and then `select`"):
        pipeline.run(resolve({}, {name: str(value) for name, value in given.items()}), Stop(), Shard(0, 3))
    assert not (tmp_path / "out").exists()


def test_a_platform_that_is_down_costs_nothing_but_the_upload(
    done: dict[str, Any], server: LightlyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(transport, "_PATIENCE", IMPATIENT)
    output = fresh(done, tmp_path / "out")
    away = {name: str(value) for name, value in variables(output, "http://127.0.0.1:9").items()}
    for name in ("LIGHTLY_SERVER_LOCATION", "NO_PROXY"):
        monkeypatch.setenv(name, away[name])
    with pytest.raises(TryAgain, match=r"Cannot reach Lightly at \S+ to look up the dataset: NewConn") as stop:
        pipeline.select(resolve({}, away), Stop())
    assert stop.value.exit_code == 75
    assert results(output) == results(done["output"]) and (output / "_SUCCESS").exists()
    assert "The upload comes last, so a run starts anyway." in caplog.text
    assert f"All results are in {output}. Run the job again to upload" in caplog.text
    parts = {path.name: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    monkeypatch.setenv("LIGHTLY_SERVER_LOCATION", server.url)
    pipeline.select(resolve({}, away | {"LIGHTLY_SERVER_LOCATION": server.url}), Stop())
    assert state(server.dataset("demo")) == done["state"] and results(output) == results(done["output"])
    assert parts.items() <= {path.name: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}.items()


def test_a_token_that_is_not_accepted_is_said_before_any_work(
    server: LightlyServer, tmp_path: Path, job: Job, frames: list[Path]
) -> None:
    wrong = "f" * 32
    (tmp_path / "token").write_text(f"{wrong}\n")
    given = variables(tmp_path / "out", server) | {"LIGHTLY_TOKEN": "", "LIGHTLY_TOKEN_FILE": tmp_path / "token"}
    ran = job(**given)
    assert ran.returncode == 77, ran.stderr
    assert "error: Lightly does not accept this token for the request to look up the dataset" in ran.stderr
    assert "Traceback" not in ran.stderr and wrong not in ran.stderr + ran.stdout
    assert not list((tmp_path / "out").rglob("part-*"))
    server.refusals.clear()
