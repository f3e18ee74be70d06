"""Results of the real job, loaded, and asked for through LightlyStudio's own API."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import lightly_studio as ls
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightly_studio.core.dataset_query.image_sample_field import ImageSampleField
from lightly_studio.database import db_manager

from job import names
from job.errors import SettingsError
from studio import __main__ as door
from studio import database, places, results
from tests.standins import servers
from tests.studio.conftest import N_SAMPLES, ROOT, Run, run_job

SCORES = (
    "object_frequency", "objectness_least_confidence", "uncertainty_least_confidence", "uncertainty_margin",
    "uncertainty_entropy",
)  # fmt: skip


def read(output: str, name: str) -> bytes:
    filesystem, root = fsspec.core.url_to_fs(output)
    content: bytes = filesystem.cat_file(f"{root}/{name}")
    return content


def rows(output: str, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(io.BytesIO(read(output, name))).to_pylist()
    return found


def expected_boxes(output: str) -> dict[str, list[tuple[str, float, list[float]]]]:
    """Class name, score and corners of each detection, by image."""
    filesystem, root = fsspec.core.url_to_fs(output)
    classes = json.loads(read(output, "run.json"))["detector"]["class_names"]
    found = defaultdict(list)
    for part in filesystem.glob(f"{root}/parts/part-*.parquet"):
        for row in rows(output, f"parts/{part.rpartition('/')[2]}"):
            for box, score, number in zip(row["boxes"] or [], row["scores"] or [], row["classes"] or [], strict=True):
                found[row["key"]].append((classes[number], score, box))
    return found


def check_boxes(sample: Any, boxes: list[tuple[str, float, list[float]]], tolerance: float) -> None:
    """Compares what a sample has with what was detected, edge by edge."""
    there = [(each.class_name, each.confidence, each) for each in sample.annotations]
    assert len(there) == len(boxes)
    pairs = zip(sorted(there, key=lambda each: -each[1]), sorted(boxes, key=lambda each: -each[1]), strict=True)
    for (name, confidence, box), (class_name, score, corners) in pairs:
        assert (name, confidence) == (class_name, pytest.approx(score, abs=1e-6))
        edges = [box.x, box.y, box.x + box.width, box.y + box.height]
        assert edges == pytest.approx(corners, abs=tolerance)


def check(dataset: Any, run: Run) -> None:
    """Compares a dataset with the files that it was made from."""
    images = {row["file_name"]: row for row in rows(run.output, "images.parquet") if row["status"] == "ok"}
    vectors = {row["file_name"]: row["embedding"] for row in rows(run.output, "embeddings.parquet")}
    picks = [json.loads(line) for line in read(run.output, "selected.jsonl").decode().splitlines()]
    reasons = {each["file_name"]: each["reason"] for each in picks}
    boxes = expected_boxes(run.output)
    assert sum(map(len, boxes.values())) > 20
    samples = {sample.file_name: sample for sample in dataset}
    assert sorted(samples) == sorted(images)
    for name, sample in samples.items():
        row = images[name]
        assert (sample.width, sample.height) == (row["width"], row["height"])
        for key in (*SCORES, "num_boxes", "distance", "nearest", "rank"):
            assert sample.metadata[key] == row[key], (name, key)
        assert sample.metadata["reason"] == reasons.get(name)
        (embedding,) = sample.sample_table.embeddings
        np.testing.assert_array_equal(embedding.embedding, np.array(vectors[name], np.float32))
        check_boxes(sample, boxes[name], 0.51)
    tag = f"coral-{N_SAMPLES}-{json.loads(read(run.output, 'run.json'))['run_id']}"
    tagged = [sample.file_name for sample in dataset.match(ImageSampleField.tags.contains(tag))]
    assert sorted(tagged) == sorted(names.parse(read(run.output, "selected.txt").decode()))
    assert len(tagged) == N_SAMPLES


def opened(run: Run, cache: Path, source: str = "") -> Any:
    content = results.read(run.output)
    image_places = places.locate(content, source)
    return database.open_dataset(cache, content, image_places, places.find_present(content, image_places))


@pytest.fixture(autouse=True)
def _no_database_left() -> Iterator[None]:
    yield
    db_manager.close()


def test_a_folder(local: Run, tmp_path: Path) -> None:
    with opened(local, tmp_path) as dataset:
        check(dataset, local)
        assert {sample.file_name.split("/")[0] for sample in dataset} >= {"süd weg", "turned.jpg"}
        (turned,) = dataset.match(ImageSampleField.file_name == "turned.jpg")
        assert turned.width > turned.height  # as it is seen; the file has it on its side
        assert turned.file_path_abs == f"{local.source}/turned.jpg"


def test_a_bucket(remote: Run, tmp_path: Path) -> None:
    with opened(remote, tmp_path) as dataset:
        check(dataset, remote)
        assert all(sample.file_path_abs == f"{remote.source}/{sample.file_name}" for sample in dataset)


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_list(kind: str, remote: Run, bucket: dict[str, str], frames: Path, tmp_path: Path) -> None:
    """Whole paths, whole URIs and names relative to the list."""
    whole = sorted(str(each) for each in frames.glob("frame-*.jpg"))[:6]
    entries = [*whole, "turned.jpg", f"{remote.source}/broken.jpg", f"{remote.source}/{Path(whole[-1]).name}"]
    text = "".join(json.dumps({"uri": each}) + "\n" for each in entries) if kind == "jsonl" else names.dump(entries)
    (listed := frames / f"list.{kind}").write_text(text)
    run = run_job(str(listed), str(tmp_path / "out"), **bucket)
    with opened(run, tmp_path / "cache") as dataset:
        check(dataset, run)
        assert {sample.file_path_abs for sample in dataset} == {*whole, f"{frames}/turned.jpg", entries[-1]}


def test_images_that_have_moved(local: Run, frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(frames, moved)
    lost = sorted(moved.glob("frame-*.jpg"))[:2]
    for each in lost:
        each.unlink()
    with opened(local, tmp_path / "cache", str(moved)) as dataset:
        assert len(list(dataset)) == len(results.read(local.output).images) - 2
        assert not {each.name for each in lost} & {sample.file_name for sample in dataset}
        assert all(sample.file_path_abs.startswith(f"{moved}/") for sample in dataset)
    shutil.rmtree(moved)
    assert door.main(["--output", local.output, "--input", str(moved), "--port", str(servers.free_ports(1)[0])]) == 64
    assert f"None of the 21 images of the run is in {moved}" in capsys.readouterr().err


def test_what_was_made_there_is_kept_until_the_results_change(local: Run, tmp_path: Path) -> None:
    changed = Run(local.source, str(tmp_path / "out"))
    shutil.copytree(local.output, changed.output)
    with opened(changed, tmp_path / "cache") as dataset:
        for sample in list(dataset)[:3]:
            sample.add_tag("mine")
    with opened(changed, tmp_path / "cache") as dataset:
        assert len(list(dataset.match(ImageSampleField.tags.contains("mine")))) == 3
    path = Path(changed.output) / "selected.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    with opened(changed, tmp_path / "cache") as dataset:
        assert not list(dataset.match(ImageSampleField.tags.contains("mine")))
        assert len({tag for sample in dataset for tag in sample.tags}) == 1


def test_a_start_that_did_not_come_to_its_end_is_made_again(
    local: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(database, "_add_embeddings", full)
        with pytest.raises(OSError, match="disk full"), opened(local, tmp_path):
            raise AssertionError
    with opened(local, tmp_path) as dataset:
        check(dataset, local)


def test_of_repeated_rows_the_first_part_counts_that_fits(local: Run, tmp_path: Path) -> None:
    again = Run(local.source, str(tmp_path / "out"))
    shutil.copytree(local.output, again.output)
    folder = Path(again.output) / "parts"
    table = pq.read_table(min(folder.glob("part-*.parquet")))
    half = [each and [0.5] * len(each) for each in table["scores"].to_pylist()]
    wider = [each and each + 1 for each in table["width"].to_pylist()]
    wrong = replaced(table, "scores", half)
    pq.write_table(replaced(wrong, "width", wider), folder / "part-0.parquet")  # of another content of these images
    pq.write_table(wrong, folder / "part-z.parquet")
    expected = {image.file_name: image.scores.tolist() for image in results.read(local.output).detections()}
    actual = {image.file_name: image.scores.tolist() for image in results.read(again.output).detections()}
    assert actual == expected


def replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    field = table.schema.field(name)
    return table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))


def test_predictions_in_lightlys_format(local: Run, tmp_path: Path) -> None:
    """LightlyStudio's own reader of that format finds what the job detected."""
    (task,) = [each for each in (Path(local.output) / ".lightly" / "predictions").iterdir() if each.is_dir()]
    db_manager.connect(db_file=str(tmp_path / "studio.db"))
    dataset = ls.ImageDataset.create("predictions")
    dataset.add_samples_from_lightly(
        task, images_rel_path=os.path.relpath(local.source, task), embed=False, embed_annotations=False
    )
    boxes = expected_boxes(local.output)
    samples = {sample.file_name: sample for sample in dataset}
    assert sorted(samples) == sorted(
        row["file_name"] for row in rows(local.output, "images.parquet") if row["status"] == "ok"
    )
    for name, sample in samples.items():
        # That reader cuts to whole pixels, position and size each.
        inside = [(label, score, np.maximum(corners, 0).tolist()) for label, score, corners in boxes[name]]
        check_boxes(sample, inside, 2.01)


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "OUTPUT is not set: name the output folder"),
    (["--output", "/nowhere"], "OUTPUT='/nowhere' does not contain a finished run (run.json is missing)"),
    (["--output", "ftp://host/out"], "ftp:// is not supported"),
    (["--output", "/nowhere", "--port", "http"], "PORT='http' is not a port"),
    (["--output", "/nowhere", "--port", "65536"], "PORT='65536' is not a port"),
])  # fmt: skip
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--port" not in arguments:
        arguments = [*arguments, "--port", str(servers.free_ports(1)[0])]
    assert door.main(arguments) == 64
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "images.parquet", "selected.jsonl"])
def test_damaged_results(name: str, local: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(local.output, tmp_path / "out")
    (tmp_path / "out" / name).write_text('{"other": 1}')
    assert door.main(["--output", str(tmp_path / "out"), "--port", str(servers.free_ports(1)[0])]) == 64
    assert "are damaged or from another version" in capsys.readouterr().err
    (tmp_path / "out" / name).unlink()
    assert door.main(["--output", str(tmp_path / "out"), "--port", str(servers.free_ports(1)[0])]) == 64
    assert f"does not contain a finished run ({name} is missing)" in capsys.readouterr().err


def test_the_exit_code_of_a_mistake(local: Run, tmp_path: Path) -> None:
    """Not that of an abort, which a library's threads may cause when a process ends at once."""
    (port,) = servers.free_ports(1)
    command = [sys.executable, "-m", "studio", "--output", local.output, "--input", str(tmp_path), "--port", str(port)]
    for _ in range(10):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (64, 1), done.stderr


def test_buckets_that_cannot_be_read(
    remote: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = servers.free_ports(1)
    assert door.main(["--output", f"s3://{servers.BUCKET}/nowhere", "--port", str(port)]) == 64
    assert "does not contain a finished run" in capsys.readouterr().err
    for name, value in servers.LISTER.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert door.main(["--output", remote.output, "--port", str(port)]) == 77
    assert "Permission denied: cannot read" in capsys.readouterr().err
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_results_that_are_open_already(local: Run, tmp_path: Path) -> None:
    second = opened(local, tmp_path)
    with opened(local, tmp_path), pytest.raises(SettingsError, match="in LightlyStudio already"):
        second.__enter__()
