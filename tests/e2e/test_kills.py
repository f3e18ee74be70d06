"""The job, killed at every kind of file that it writes: nothing half, no mixture, and the same bytes in the end."""

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import S3
from tests.e2e.kills import OTHER, check_between, variables, without_times
from tests.exports.test_paths import tree
from tests.standins.servers import ADMIN, BUCKET, client
from tests.standins.warm_job import Kill, WarmJob

# Files of the reduce step that differ with other settings, in the order in which they are written, and the other ones.
CHANGED = (
    r"parts/owner\.json",
    r"_SUCCESS",
    r"images\.parquet",
    r"selected\.jsonl",
    r"selected\.csv",
    r"selected\.txt",
    r"rounds/",
    r"report\.html",
    r"exports/coco\.json",
    r"exports/voc/",
    r"exports/yolo/labels/",
    r"exports/copies\.jsonl",
    r"selected/frame",
    r"run\.json",
    r"\.coralpick/files\.json",
)
UNCHANGED = (
    r"failures\.jsonl",
    r"embeddings\.parquet",
    r"parts/outdated-predictions",
    r"\.lightly/predictions/.*frame",
    r"parts/done-predictions",
    r"detections\.parquet",
    r"predictions/coco\.json",
)
MOMENTS = ("before", "middle", "after")
DETECTION = (r"parts/part-", r"parts/listing-", r"status\.json")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmJob]:
    with WarmJob(tmp_path_factory.mktemp("texts")) as job:
        yield job


@pytest.fixture(scope="module")
def source(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for frame in frames[::28]:
        shutil.copy(frame, folder / frame.name)
    return folder


@pytest.fixture(scope="module")
def finished(warm: WarmJob, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An undisturbed run, and the same output after a run with other settings."""
    folder = tmp_path_factory.mktemp("finished")
    ended = warm.run("run", **variables(source, folder / "first"))
    assert ended.code == 0, ended.text
    shutil.copytree(folder / "first", folder / "second")
    ended = warm.run("select", **variables(source, folder / "second", **OTHER))
    assert ended.code == 0, ended.text
    return {"first": folder / "first", "second": folder / "second"}


def content(folder: Path) -> dict[str, bytes]:
    """All files of an output that are compared."""
    return without_times(tree(folder))


def copy_output(finished: Path, output: Path, key: str) -> dict[str, bytes]:
    """Copies an output, or its detections and rounds if the file would not be written again; returns what is there."""
    shutil.copytree(finished, output)
    if key in UNCHANGED:
        for path in tree(output):
            if not path.startswith(("parts/part-", "parts/listing-", "parts/precision", "rounds/")):
                (output / path).unlink()
    return content(output)


@pytest.mark.parametrize(("key", "moment"), [*zip((*CHANGED, *UNCHANGED), itertools.cycle(MOMENTS), strict=False)])
def test_killed_while_it_writes_results(
    warm: WarmJob, finished: dict[str, Path], source: Path, tmp_path: Path, key: str, moment: str
) -> None:
    second = content(finished["second"])
    first = copy_output(finished["first"], tmp_path / "out", key)
    given = variables(source, tmp_path / "out", **OTHER)
    ended = warm.run("select", kill=Kill(key, moment), **given)
    assert ended.killed and ended.code == -9, ended.text
    check_between(tree(tmp_path / "out"), first, second)
    again = warm.run("select", **given)
    assert again.code == 0, again.text
    assert content(tmp_path / "out") == second


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize(("key", "count"), [(DETECTION[0], 1), (DETECTION[0], 2), (DETECTION[1], 1), (DETECTION[2], 2)])
def test_killed_while_it_detects(
    warm: WarmJob, finished: dict[str, Path], source: Path, tmp_path: Path, key: str, count: int, name: str
) -> None:
    given = variables(source, tmp_path / "out")
    ended = warm.run("run", kill=Kill(key, "after", count, name), **given)
    assert ended.killed and ended.code in ({-9} if name == "SIGKILL" else {143}), ended.text
    found = content(tmp_path / "out")
    check_between(tree(tmp_path / "out"), {}, content(finished["first"]))
    assert "_SUCCESS" not in found and "selected.txt" not in found
    again = warm.run("run", **given)
    assert again.code == 0, again.text
    expected, found = content(finished["first"]), content(tmp_path / "out")
    if name == "SIGTERM":  # which also saves the part that it interrupts, so parts are cut elsewhere
        expected, found = (
            {path: data for path, data in files.items() if not path.startswith("parts/")} for files in (expected, found)
        )
    assert found == expected


@pytest.mark.parametrize("key", [CHANGED[1], CHANGED[5], CHANGED[10], CHANGED[14], UNCHANGED[3], UNCHANGED[6]])
def test_killed_while_it_writes_results_to_a_bucket(
    warm: WarmJob, source: Path, seaweedfs: S3, finished: dict[str, Path], key: str, tmp_path: Path
) -> None:
    store = client(seaweedfs.endpoint)
    access = ADMIN | {"AWS_ENDPOINT_URL": seaweedfs.endpoint}
    out = f"killed-{(*CHANGED, *UNCHANGED).index(key)}"
    copy_output(finished["first"], tmp_path / "first", key)
    for path, data in tree(tmp_path / "first").items():
        store.put_object(Bucket=BUCKET, Key=f"{out}/{path}", Body=data)
    given = variables(source, seaweedfs.uri(out), **access | OTHER)
    ended = warm.run("select", kill=Kill(key), **given)
    assert ended.killed and ended.code == -9, ended.text
    again = warm.run("select", **given)
    assert again.code == 0, again.text
    pages = store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{out}/")
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    for name in keys:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    assert content(tmp_path / out) == content(finished["second"])


@pytest.mark.parametrize(
    "pattern",
    [
        *("parts/part-*", "parts/listing-*", "parts/detector-*", "parts/precision.json", "parts/done-predictions-*"),
        *("embeddings.parquet", "exports/copies.jsonl", ".coralpick/files.json", "run.json"),
    ],
)
def test_a_flipped_bit_changes_no_result(
    warm: WarmJob, finished: dict[str, Path], source: Path, tmp_path: Path, pattern: str
) -> None:
    """The next start mends it, or says which file is damaged and that `run` mends it."""
    output, rng = tmp_path / "out", random.Random(pattern)  # no secret
    shutil.copytree(finished["first"], output)
    path = min(output.glob(pattern))
    damaged = bytearray(path.read_bytes())
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    path.write_bytes(damaged)
    given = variables(source, output)
    ended = warm.run("select", **given)
    if ended.code:
        assert ended.code in (65, 75) and path.name in ended.text, ended.text
        ended = warm.run("run", **given)
    assert ended.code == 0, ended.text
    expected, found = (
        {name: data for name, data in files.items() if not name.startswith(("parts/damaged/", "edited/"))}
        for files in (content(finished["first"]), content(output))
    )
    if pattern.startswith(("parts/", "exports/")):  # it may lie there as it is, if it was not needed or may be edited
        name = path.relative_to(output).as_posix()
        assert pattern.startswith("parts/") or "changed by someone else" in ended.text
        found.pop(name, None)
        expected.pop(name)
    assert found == expected
