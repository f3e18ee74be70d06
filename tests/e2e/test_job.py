"""The whole job, as a process through entrypoint.py, on real frames with the real demo model."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq
import pytest
from detectron2 import model_zoo

from demo import fetch
from job import names, publish
from job.context import Run
from job.errors import Stopped
from job.parts.owned import OwnedOutput
from job.settings import knobs
from job.stopping import Stop
from job.storage.local import LocalFolder
from tests.conftest import Job, demo_variables, picture, random_checkpoint, settings, start_job
from tests.exports.test_paths import tree
from tests.publish.test_files import check_output

FILES = {
    "selected.txt",
    "selected.csv",
    "selected.jsonl",
    "images.parquet",
    "detections.parquet",
    "embeddings.parquet",
    "failures.jsonl",
}
FOLDERS = {"parts", ".coralpick", "exports", "predictions", "rounds"}
RESULTS = FILES | FOLDERS | {"run.json", "status.json", "report.html", "_SUCCESS"}


def content(output: Path, *more: str) -> dict[str, bytes]:
    """The files that must be the same in two runs on the same inputs."""
    found = [output / name for name in sorted({*FILES, *more})]
    found += sorted(each for each in (output / "exports").rglob("*") if each.is_file())
    found += [output / "predictions" / "coco.json"]
    return {str(each.relative_to(output)): _without_place(each.read_bytes(), output) for each in found}


def _without_place(content: bytes, output: Path) -> bytes:
    """Exports name images by where they are, which is the same in all of these runs; nothing names the output."""
    assert str(output).encode() not in content
    return content


def parts_of(output: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mtime_ns for each in (output / "parts").glob("part-*")}


@pytest.fixture(scope="module")
def done(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One undisturbed run over 24 frames, which others are compared with."""
    folder = tmp_path_factory.mktemp("run")
    source, output = folder / "in", folder / "out"
    (source / "sub dir").mkdir(parents=True)
    for number, frame in enumerate(frames[::11]):
        target = source / ("sub dir" if number % 3 == 0 else ".") / frame.name
        shutil.copyfile(frame, target)
        os.utime(target, (number, number))
    variables = demo_variables(source, output, CORAL_PART_SIZE=5)
    process = start_job(**variables)
    text, _ = process.communicate(timeout=300)
    assert process.returncode == 0, text
    return {"source": source, "output": output, "variables": variables, "text": text}


def test_the_outputs_are_there_and_agree(done: dict[str, Any]) -> None:
    output = done["output"]
    assert {each.name for each in output.iterdir()} == RESULTS
    absent = [publish.SELECTED, publish.COPIES, publish.LIGHTLY, publish.STATUS_OF_SHARD, publish.EDITED]
    absent.append(publish.LIGHTLY_PREDICTIONS)  # for the platform, and this run has no token
    check_output(output, missing=absent)
    selected = names.parse((output / "selected.txt").read_text())
    assert len(selected) == 5 and all((done["source"] / name).is_file() for name in selected)
    with (output / "selected.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in table] == [line["file_name"] for line in lines] == selected
    assert [line["rank"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line["reason"] for line in lines)

    rows = pq.read_table(output / "images.parquet").to_pylist()
    assert len(rows) == 23 and [row["file_name"] for row in rows] == sorted(row["file_name"] for row in rows)
    by_name = {row["file_name"]: row for row in rows}
    for line in lines:
        row = by_name[line["file_name"]]
        assert row["rank"] == line["rank"]
        assert row["entropy_sum"] == pytest.approx(line["score"], abs=1e-6)
        assert row["nearest"] == line["nearest"]
    assert all((row["width"], row["height"], row["status"]) == (640, 272, "ok") for row in rows)
    embeddings = pq.read_table(output / "embeddings.parquet")
    assert embeddings["file_name"].to_pylist() == [row["file_name"] for row in rows]
    # The first pick has the highest score; the second is far from it.
    assert lines[0]["score"] == pytest.approx(max(row["entropy_sum"] for row in rows), abs=1e-6)
    assert lines[1]["distance"] > 0.3


def test_run_json_lets_someone_repeat_the_run(done: dict[str, Any]) -> None:
    run = json.loads((done["output"] / "run.json").read_text())
    assert run["settings"]["CORAL_PART_SIZE"] == 5 and run["settings"]["CORAL_SEED"] == 0
    assert run["detector"]["weights_sha256"].startswith("dccea06f") and run["detector"]["probabilities"] == "native"
    assert run["versions"]["torch"] and run["embedding"].items() >= {"method": "detector", "dimension": 256}.items()
    assert run["counts"]["images"] == run["counts"]["usable"] == 23 and run["counts"]["selected"] == 5
    assert set(run["seconds"]) == {
        *("list", "load the detector", "find what is done", "detect", "score", "embed", "select"),
        *("read the lists", "read boxes", "explain", "measure distances", "draw the map", "write tables"),
        *("report", "export", "start", "other"),
    }


def test_a_person_sees_the_first_picks_and_where_the_rest_is(done: dict[str, Any]) -> None:
    text = done["text"]
    first = names.parse((done["output"] / "selected.txt").read_text())[0]
    assert first in text and "selected.txt" in text and "run.json" in text
    assert "total entropy" in text
    assert "Warning" not in text and "warn(" not in text


def test_again_does_nothing_twice_and_gives_the_same_bytes(done: dict[str, Any], job: Job) -> None:
    before, parts_before = content(done["output"]), parts_of(done["output"])
    again = job(**done["variables"])
    assert again.returncode == 0, again.stderr
    assert "23 of 23 images are already finished." in again.stderr
    assert content(done["output"]) == before and parts_of(done["output"]) == parts_before


@pytest.mark.parametrize("changed", [{"CORAL_PART_SIZE": 512, "CORAL_BATCH_SIZE": 4}, {"CORAL_PART_SIZE": 7}])
def test_batches_and_parts_change_no_byte(
    done: dict[str, Any], job: Job, tmp_path: Path, changed: dict[str, Any]
) -> None:
    other = job(**done["variables"] | changed | {"CORAL_OUTPUT": tmp_path / "out"})
    assert other.returncode == 0, other.stderr
    assert content(tmp_path / "out") == content(done["output"])


def test_predict_then_select_is_run(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    variables = done["variables"] | {"CORAL_OUTPUT": tmp_path / "out"}
    early = job("select", **variables)
    assert early.returncode == 75 and "No shard has finished yet" in early.stderr
    assert job("predict", **variables).returncode == 0
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"parts", "status.json"}
    assert job("select", **variables).returncode == 0
    assert content(tmp_path / "out") == content(done["output"])


def wait_for_parts(output: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(3000):
        found = list((output / "parts").glob("part-*.parquet")) if (output / "parts").is_dir() else []
        if len(found) >= count or process.poll() is not None:
            return
        time.sleep(0.02)


def test_killed_half_way_it_goes_on_and_gives_the_same(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    variables = done["variables"] | {"CORAL_OUTPUT": output}
    process = start_job(**variables)
    wait_for_parts(output, 2, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = parts_of(output)
    kept = {name: changed for name, changed in finished.items() if name.endswith(".parquet")}
    assert 2 <= len(kept) < 5 and not (output / "_SUCCESS").exists()
    again = job(**variables)
    assert again.returncode == 0, again.stderr
    assert f"{5 * len(kept)} of 23 images are already finished." in again.stderr
    assert kept.items() <= parts_of(output).items()
    assert content(output) == content(done["output"])


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_sigterm_saves_what_is_done(done: dict[str, Any], job: Job, tmp_path: Path, delay: float) -> None:
    output = tmp_path / "out"
    variables = done["variables"] | {"CORAL_OUTPUT": output, "CORAL_PART_SIZE": 9, "CORAL_BATCH_SIZE": 2}
    process = start_job(**variables)
    wait_for_parts(output, 1, process)
    time.sleep(delay)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 143, text
    assert "Stopped on request" in text and not (output / "selected.txt").exists()
    saved = sum(pq.read_metadata(path).num_rows for path in (output / "parts").glob("part-*.parquet"))
    assert 9 <= saved < 23
    again = job(**variables)
    assert again.returncode == 0, again.stderr
    assert f"{saved} of 23 images are already finished." in again.stderr
    assert content(output) == content(done["output"])


def test_sigterm_in_the_last_part_stops_before_the_selection() -> None:
    stop = Stop()
    with pytest.raises(Stopped), stop.defer():
        stop._handle(signal.SIGTERM, None)


def test_a_second_sigterm_does_not_break_into_the_leaving() -> None:
    stop = Stop()
    with pytest.raises(Stopped):
        stop._handle(signal.SIGTERM, None)
    stop._handle(signal.SIGTERM, None)
    # A request that got lost in a clean-up of Python's is still heeded, by the next stage.
    job = Run(settings(), stop, OwnedOutput(LocalFolder("unused")))
    with pytest.raises(Stopped), job.stage("next"):
        pytest.fail("it must not begin")


def test_select_refuses_detections_of_other_settings(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done["output"] / "parts", output / "parts")
    other = job("select", CORAL_SCORE_THRESHOLD=0.5, **done["variables"] | {"CORAL_OUTPUT": output})
    assert other.returncode == 64 and "holds results of other settings (different model configuration" in other.stderr
    weights = tmp_path / "other.weights"
    data = bytearray(fetch.WEIGHTS.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    variables = done["variables"] | {"CORAL_OUTPUT": output, "CORAL_WEIGHTS": weights, "CORAL_EMBEDDING": "simclr"}
    other = job("select", CORAL_SSL_EPOCHS=0, **variables)
    assert other.returncode == 64 and "different weights" in other.stderr
    assert not (output / "embeddings.parquet").exists()


def test_class_names_are_corrected_without_detecting_again(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    """The results are those of a run that had these names from the start."""
    run = json.loads((done["output"] / "run.json").read_text())
    renamed = [f"my {name}" for name in run["detector"]["class_names"]]
    (tmp_path / "names.txt").write_text("\n".join(renamed))
    output = tmp_path / "out"
    shutil.copytree(done["output"], output)
    before = parts_of(output)
    variables = done["variables"] | {"CORAL_OUTPUT": output, "CORAL_CLASSES": tmp_path / "names.txt"}
    again = job(**variables)
    assert again.returncode == 0, again.stderr
    assert "23 of 23 images are already finished." in again.stderr and parts_of(output) == before
    assert (
        "80 of 80 classes have another name than at detection, such as 'my person' instead of 'person'." in again.stderr
    )
    assert json.loads((output / "run.json").read_text())["detector"]["class_names"] == renamed
    coco = json.loads((output / "exports" / "coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == renamed
    assert content(output) != content(done["output"])

    fresh = job(**variables | {"CORAL_OUTPUT": tmp_path / "fresh", "CORAL_PREVIOUS": done["output"]})
    assert fresh.returncode == 0 and "Reused 23 of 23 images" in fresh.stderr
    assert content(tmp_path / "fresh") == content(output)
    shutil.rmtree(tmp_path / "fresh")
    fresh = job(**variables | {"CORAL_OUTPUT": tmp_path / "fresh"})
    assert fresh.returncode == 0 and "another name" not in fresh.stderr
    assert content(tmp_path / "fresh") == content(output)

    weighted = {"CORAL_OUTPUT": output, "CORAL_CLASS_WEIGHTS": "my car=2"}
    assert job("select", **variables | weighted).returncode == 0
    back = job("select", **done["variables"] | {"CORAL_OUTPUT": output})
    assert back.returncode == 0 and content(output) == content(done["output"])
    fewer = job("select", **variables | {"CORAL_CLASSES": "a,b"})
    assert fewer.returncode == 64 and "CORAL_CLASSES has 2 names, but the model has 80 classes" in fewer.stderr


def test_labelled_images_are_kept_away_from(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    first = names.parse((done["output"] / "selected.txt").read_text())
    (tmp_path / "labelled.txt").write_text(names.dump(first[:2]))
    output = tmp_path / "out"
    shutil.copytree(done["output"] / "parts", output / "parts")
    variables = done["variables"] | {"CORAL_LABELLED": tmp_path / "labelled.txt", "CORAL_OUTPUT": output}
    assert job("select", **variables).returncode == 0
    lines = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and not {line["file_name"] for line in lines} & set(first[:2])
    assert lines[0]["nearest"] in first[:2] and "nearest labelled image" in lines[0]["reason"]
    # Greedy: with its first two picks labelled, it goes on as before.
    assert [line["file_name"] for line in lines][:3] == first[2:]


def test_rejected_picks_are_replaced_by_the_next_best(done: dict[str, Any], tmp_path: Path) -> None:
    first = names.parse((done["output"] / "selected.txt").read_text())
    (tmp_path / "rejected.txt").write_text(names.dump([first[1], first[3]]))
    output = tmp_path / "out"
    shutil.copytree(done["output"], output)
    content = json.loads((output / "run.json").read_text())
    content["settings"]["CORAL_OUTPUT"] = str(output)
    (output / "run.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "scripts.reselect", str(output), str(tmp_path / "rejected.txt")]
    ended = subprocess.run(command, cwd=fetch.FRAMES.parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    replaced = [line["file_name"] for line in lines]
    # The picks that were kept stay, in their order, and two others come after them.
    assert replaced[:3] == [first[0], first[2], first[4]] and len(replaced) == 5
    assert not {first[1], first[3]} & set(replaced) and [line["rank"] for line in lines] == [1, 2, 3, 4, 5]
    counts = json.loads((output / "run.json").read_text())["counts"]
    assert (counts["rejected"], counts["selected"]) == (2, 5)
    # The list that the next report saves begins with these two, so that they do not come back.
    (lists,) = re.findall(r'id="lines">(.*?)</script>', (output / "report.html").read_text())
    assert names.parse("".join(json.loads(lists)["rejected"])) == sorted([first[1], first[3]])


@pytest.mark.parametrize("strategy", ["coreset", "active_learning", "random"])
def test_other_strategies(done: dict[str, Any], job: Job, tmp_path: Path, strategy: str) -> None:
    output = tmp_path / "out"
    shutil.copytree(done["output"] / "parts", output / "parts")
    variables = done["variables"] | {"CORAL_OUTPUT": output, "CORAL_SCORE": "objectness_least_confidence"}
    assert job("select", CORAL_STRATEGY=strategy, **variables).returncode == 0
    lines = [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    if strategy == "active_learning":
        rows = pq.read_table(output / "images.parquet").to_pylist()
        best = sorted(rows, key=lambda row: (-row["objectness_least_confidence"], row["file_name"]))[:5]
        assert [line["file_name"] for line in lines] == [row["file_name"] for row in best]
    if strategy == "random":
        assert "drawn at random" in lines[0]["reason"]


def test_self_supervised_embeddings(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    outputs = []
    for number in range(2):
        output = tmp_path / f"out{number}"
        shutil.copytree(done["output"] / "parts", output / "parts")
        variables = done["variables"] | {"CORAL_OUTPUT": output, "CORAL_EMBEDDING": "simclr", "CORAL_SSL_EPOCHS": 1}
        ran = job("select", CORAL_SSL_BATCH_SIZE=8, **variables)
        assert ran.returncode == 0, ran.stderr
        outputs.append(content(output))
    assert outputs[0] == outputs[1]
    assert outputs[0]["embeddings.parquet"] != content(done["output"])["embeddings.parquet"]
    again = job("select", CORAL_SSL_BATCH_SIZE=8, **variables)
    assert "Reusing the embeddings in embeddings.parquet." in again.stderr
    run = json.loads((output / "run.json").read_text())
    expected = {"method": "simclr", "epochs": 1, "batch_size": 8, "seed": 0, "dimension": 1024}
    assert expected.items() <= run["embedding"].items()


def test_a_training_that_was_killed_continues(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    """SIGKILL after the first epoch or a later one; the embeddings are those of an undisturbed run."""
    outputs = [tmp_path / name for name in ("whole", "killed")]
    training = {"CORAL_EMBEDDING": "simclr", "CORAL_SSL_EPOCHS": 4, "CORAL_SSL_BATCH_SIZE": 4}
    for output in outputs:
        shutil.copytree(done["output"] / "parts", output / "parts")
    variables = [done["variables"] | training | {"CORAL_OUTPUT": output} for output in outputs]
    process = start_job("select", **variables[1])
    state = outputs[1] / "parts" / "simclr.pt"
    while not state.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not (outputs[1] / "embeddings.parquet").exists()
    for own in variables:
        ran = job("select", **own)
        assert ran.returncode == 0, ran.stderr
    assert "The training of the embedding continues after " in ran.stderr and not state.exists()
    embeddings = [(output / "embeddings.parquet").read_bytes() for output in outputs]
    assert embeddings[0] == embeddings[1]


def test_a_model_of_the_zoo_with_random_weights(job: Job, tmp_path: Path) -> None:
    name = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"
    weights = random_checkpoint(Path(model_zoo.get_config_file(name)), tmp_path / "random.pth")
    source = tmp_path / "in"
    source.mkdir()
    for seed in range(10):
        cv2.imwrite(str(source / f"{seed}.jpg"), picture(seed, 72, 96 if seed % 2 else 128))
    ran = job(
        CORAL_INPUT=source, CORAL_OUTPUT=tmp_path / "out", CORAL_MODEL=name, CORAL_WEIGHTS=weights,
        CORAL_MIN_SIZE=64, CORAL_MAX_SIZE=128, CORAL_N_SAMPLES=4,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert len((tmp_path / "out" / "selected.txt").read_text().splitlines()) == 4
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["detector"]["probabilities"] == "softmax" and len(run["detector"]["class_names"]) == 80
    assert run["embedding"]["dimension"] == 256 and run["counts"]["boxes"] > 0


BROKEN = {
    "empty.jpg": (b"", "empty"),
    "page.JPG": (b"<html>not found</html>", "not an image"),
    "cut.jpg": (None, "truncated"),
    "line\nbreak, \"quoted\" 'and' ünïcode.png": (b"x", "not an image"),
}


def test_broken_images_are_rows_with_a_reason_and_odd_names_survive(
    few_frames: Path, frames: list[Path], job: Job, tmp_path: Path
) -> None:
    for name, (data, _) in BROKEN.items():
        (few_frames / name).write_bytes(data if data is not None else frames[0].read_bytes()[:20_000])
    odd = ["new\nline.jpg", '"quoted".jpg', "comma, semi; colon.jpg", "o\u0308.jpg", "\u00f6.jpg", ".dot.jpg"]
    for number, name in enumerate(odd):
        shutil.copyfile(frames[60 + 30 * number], few_frames / name)
    (few_frames / "notes.txt").write_text("not looked at")
    output = few_frames / "results"  # the output lies in the input and is not taken for images
    variables = demo_variables(few_frames, output, CORAL_N_SAMPLES=100)
    over = job(**variables)
    assert over.returncode == 65
    assert "4 of 22 images are unusable, more than CORAL_MAX_FAILED=0.05 allows" in over.stderr
    ran = job(CORAL_MAX_FAILED=0.5, **variables)
    assert ran.returncode == 0, ran.stderr
    assert "Only 18 of 100 images were picked" in ran.stderr
    failures = [json.loads(line) for line in (output / "failures.jsonl").read_text().splitlines()]
    assert {each["file_name"] for each in failures} == set(BROKEN)
    for each in failures:
        assert BROKEN[each["file_name"]][1] in each["reason"]
    selected = set(names.parse((output / "selected.txt").read_text()))
    assert len(selected) == 18 and set(odd) <= selected
    with (output / "selected.csv").open(newline="") as file:
        assert {row["file_name"] for row in csv.DictReader(file)} == selected
    rows = pq.read_table(output / "images.parquet").to_pylist()
    assert {row["file_name"] for row in rows if row["status"] == "failed"} == set(BROKEN)
    assert len(rows) == 22


def test_what_is_wrong_is_one_sentence_and_the_right_exit_code(few_frames: Path, job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "labelled.txt").write_text("nowhere.jpg\n")
    good = demo_variables(few_frames, tmp_path / "out")
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"CORAL_INPUT": tmp_path / "empty"}, 64, "holds no images"),
        ({"CORAL_INPUT": tmp_path / "nowhere"}, 64, "is not a folder"),
        ({"CORAL_OUTPUT": tmp_path / "file" / "out"}, 64, "Cannot write"),
        ({"CORAL_MODEL": "COCO-Detection/faster_rcn_R_50_FPN_3x.yaml"}, 64, "did you mean"),
        (
            {"CORAL_LABELLED": tmp_path / "labelled.txt"},
            64,
            "none of them is among the 12 of CORAL_INPUT. It names 'nowhere.jpg'",
        ),
        ({"CORAL_WEIGHTS": "https://127.0.0.1:9/model.pth?X-Signature=s3cret"}, 69, "could not be downloaded"),
        ({"CORAL_SEEED": 1, "CORAL_N_SAMPLES": 0}, 64, "did you mean CORAL_SEED?"),
    ]
    for changed, code, says in cases:
        ran = job(**good | changed)
        assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
        assert says in ran.stderr, ran.stderr
        assert "Traceback" not in ran.stderr and "s3cret" not in ran.stderr
        errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == (2 if "CORAL_SEEED" in changed else 1)


def test_without_a_token_one_line_says_that_nothing_is_uploaded(done: dict[str, Any]) -> None:
    assert [line for line in done["text"].splitlines() if "Lightly" in line] == [
        "Nothing is uploaded to Lightly, since LIGHTLY_TOKEN is not set."
    ]


def test_the_prediction_format_can_be_asked_for(done: dict[str, Any], job: Job, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(done["output"] / "parts", output / "parts")
    variables = done["variables"] | {"CORAL_OUTPUT": output}
    ran = job("select", **variables | {"CORAL_LIGHTLY_PREDICTIONS": 1})
    assert ran.returncode == 0, ran.stderr
    assert len(list((output / ".lightly").rglob("*.json"))) == 23 + 2 and content(output) == content(done["output"])
    before = tree(output / ".lightly")
    ran = job("select", **variables)
    assert ran.returncode == 0 and "is of an earlier run and is not updated" in ran.stderr
    assert tree(output / ".lightly") == before


def test_json_logs_are_one_object_a_line(small_rcnn: tuple[Path, Path], few_frames: Path, job: Job) -> None:
    yaml, weights = small_rcnn
    ran = job(
        CORAL_INPUT=few_frames, CORAL_OUTPUT=few_frames / "out", CORAL_MODEL=yaml, CORAL_WEIGHTS=weights,
        CORAL_N_SAMPLES=5, CORAL_LOG_FORMAT="json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert lines and all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert lines[-1]["message"] == "done" and lines[-1]["selected"] == 5 and ran.stdout == ""


def test_help_and_usage(job: Job) -> None:
    shown = job("--help")
    assert shown.returncode == 0
    for words in ("Common settings:", "--n-samples N", "[CORAL_N_SAMPLES]", "predict", "required", "Exit codes"):
        assert words in shown.stdout
    assert "--class-weights" not in shown.stdout
    assert job("--version").stdout.startswith("coralpick, version ")
    whole = job("run", "--help").stdout
    assert all((knob.option or knob.env) in whole and knob.env in whole for _, knob in knobs())
    predict, select = job("predict", "--help").stdout, job("select", "--help").stdout
    assert "--batch-size" in predict and "--n-samples" not in predict
    assert "--batch-size" not in select and "--n-samples" in select
    assert "..." not in job("--help").stdout.partition("Commands:")[2].partition("\n\n")[0]
    assert job("selct").returncode == 64
    assert job("--no-such-flag", "1").returncode == 64
