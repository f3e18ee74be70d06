"""The upload to Lightly: the real client against a strict local server, on small pools within this process."""

import csv
import io
import itertools
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightly.api.bitmask import BitMask

from job.errors import SettingsError, TooManyFailedImages
from job.exports.lightly import categories, predictions, task_name
from job.lightly import api, masks
from job.parts.pool import Pool
from job.retry import Requests
from job.settings.choices import LIGHTLY_SCORES
from job.storage.local import LocalFolder
from tests.exports.test_lightly_files import filled, load
from tests.parts.test_part import MADE_WITH, row
from tests.standins.lightly_client import NAMES, PICKS, embeddings, send, state
from tests.standins.lightly_server import Fault, LightlyServer

TASK = task_name(MADE_WITH)

READING = ("list_", "find_", "get_", "minimum_", "embedding_read_url")


def test_frames_arrive_with_their_videos(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    """The stand-in checks the body against the models of Lightly's client."""
    output, pool = small
    none = [None] * (len(pool.file_names) - 1)
    columns = {"video": pa.array(["day/drive.mp4", *none]), "frame": pa.array([40, *none], pa.int64())}
    columns["time_s"] = pa.array([1.6, *none])
    assert send(server, output, replace(pool, frames=columns)) is None
    bodies = {sample.body["fileName"]: sample.body for sample in server.dataset("the set").samples}
    assert bodies[pool.file_names[0]]["videoFrameData"] == {
        "sourceVideo": "day/drive.mp4", "sourceVideoFrameIndex": 40, "sourceVideoFrameTimestamp": 1.6
    }  # fmt: skip
    assert bodies[pool.file_names[0]]["metaData"] == {"shape": [48, 64, 3]}
    assert "videoFrameData" not in bodies[pool.file_names[1]]


def test_everything_arrives_in_the_right_rows(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    assert send(server, output, pool) is None
    dataset = server.dataset("the set")
    assert dataset.names() != NAMES and sorted(dataset.names(), key=str.encode) == pool.file_names, (
        "the order is its own"
    )
    (embedding,) = dataset.embeddings
    for name, vector in dataset.vectors(embedding).items():
        np.testing.assert_array_equal(vector, embeddings(pool)[pool.file_names.index(name)])
    assert embedding.maps == ["PCA", "TSNE", "UMAP"]
    held = state(dataset)
    assert held["tags"] == {"initial-tag": (sorted(NAMES), 8), "coral-3-0123abcd": (sorted(PICKS), 8)}
    assert held["scores"] == {
        ("initial-tag", kind): dict(zip(pool.file_names, values.tolist(), strict=True))
        for kind, values in pool.scores.items()
        if kind in LIGHTLY_SCORES
    }
    assert held["tasks"] == {TASK: categories(MADE_WITH)}
    from job.parts import boxes
    from job.parts import pool as pools

    found = boxes.detections(output, pool, range(len(pool.file_names)))
    thumbnails = pools.thumbnails(output, pool, range(len(pool.file_names)))
    for number, name in enumerate(pool.file_names):
        (sample,) = [each for each in dataset.samples if each.body["fileName"] == name]
        assert sample.files == {"thumb": thumbnails[number]}
        assert sample.body["metaData"] == {"sizeInBytes": 10, "shape": [48, 64, 3]}
        expected = predictions(found[name])
        assert sample.predictions is not None
        assert [each["categoryId"] for each in sample.predictions] == [each["category_id"] for each in expected]
        for key in ("bbox", "score", "probabilities"):
            assert [each[key] for each in sample.predictions] == [each[key] for each in expected]
    assert len({each.body["thumbName"] for each in dataset.samples}) == 8, "a.jpg and a.png share no thumbnail"
    report = json.loads(output.read("lightly.json"))
    assert report["dataset"] == {"id": dataset.id, "name": "the set"} and report["not_uploaded"] == []
    assert report["tag"]["name"] == "coral-3-0123abcd" and report["embedding"] == embedding.id


def test_a_second_time_nothing_is_written(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    send(server, output, pool)
    before, calls = state(server.dataset("the set")), server.calls.copy()
    send(server, output, pool)
    assert state(server.dataset("the set")) == before
    written = {name for name, count in server.calls.items() if count > calls[name] and not name.startswith(READING)}
    assert written == set()


def test_a_second_time_from_another_output_changes_nothing(
    server: LightlyServer, small: tuple[LocalFolder, Pool], tmp_path: Path
) -> None:
    send(server, *small)
    before = state(server.dataset("the set"))
    send(server, *filled(tmp_path / "other", NAMES, per_part=3))
    assert state(server.dataset("the set")) == before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with LightlyServer().running() as running:
        send(running, *filled(tmp_path_factory.mktemp("undisturbed"), NAMES, per_part=3))
        return state(running.dataset("the set"))


CALLS = [
    "find_datasets", "create_dataset", "list_datasources", "list_samples", "get_quota", "register_upload", "set_task",
    "create_sample_with_urls", "put_file", "set_predictions", "list_mappings", "list_tags", "create_initial_tag",
    "list_embeddings", "create_embedding", "map_embedding", "list_scores", "set_scores", "create_tag",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["reset", "lost", 429, 500, 503])
def test_calls_that_fail_are_made_again(
    kind: str | int, server: LightlyServer, small: tuple[LocalFolder, Pool], undisturbed: dict[str, Any]
) -> None:
    for call in CALLS:
        server.fail(call, Fault(kind, 2))
    send(server, *small)
    assert state(server.dataset("the set")) == undisturbed
    assert all(each.times < 2 for faults in server.faults.values() for each in faults), "each call has failed"


def test_every_kind_of_call_is_disturbed(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    send(server, *small)
    assert set(CALLS) == server.calls.keys() - {"minimum_version"}


class Killed(BaseException):
    pass


def test_killed_at_any_call_the_next_start_completes_it(
    server: LightlyServer, tmp_path: Path, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = Requests.send, [0]
    lock = threading.Lock()

    def count_down(after: bool) -> Any:
        def sending(self: Requests, operation: Any) -> Any:
            with lock:
                left[0] -= 1
                dead, dying = left[0] < 0, left[0] == 0
            if dead or (dying and not after):
                raise Killed
            result = real(self, operation)
            if dying:
                raise Killed
            return result

        return sending

    for after in (False, True):
        monkeypatch.setattr(Requests, "send", count_down(after))
        for survives in itertools.count(1, 3):
            server.datasets.clear()
            folder = tmp_path / f"{survives}-{after}"
            output, pool = filled(folder, NAMES, per_part=3)
            left[0] = survives
            try:
                send(server, output, pool)
            except Killed:
                left[0] = 10**6
            else:
                assert survives > 40, "it was killed at every third call"
                break
            send(server, output, pool)
            assert state(server.dataset("the set")) == undisturbed, f"killed at call {survives}"


def test_a_dataset_of_others_is_added_to(
    server: LightlyServer, small: tuple[LocalFolder, Pool], caplog: pytest.LogCaptureFixture
) -> None:
    theirs = server.add_dataset("the set", ("z.jpg", "a.jpg", "y.jpg"))
    theirs.scores[theirs.tags[0]["id"]] = {"uncertainty_margin": [0.1, 0.2, 0.3]}
    theirs.samples[1].files = {"thumb": b"THEIRS"}
    theirs.samples[1].predictions = [{"taskName": "theirs"}]
    send(server, *small)
    assert theirs.samples[1].files == {"thumb": b"THEIRS"}
    assert {each["taskName"] for each in theirs.samples[1].predictions} >= {"theirs"}
    held = state(theirs)
    assert theirs.names()[:3] == ["z.jpg", "a.jpg", "y.jpg"] and len(theirs.names()) == 10
    assert held["tags"]["initial-tag"] == (["a.jpg", "y.jpg", "z.jpg"], 10)
    (added,) = [name for name in held["tags"] if name.startswith("coral-added-10-")]
    assert held["tags"][added] == (sorted(set(NAMES) - {"a.jpg"}), 10)
    assert held["tags"]["coral-3-0123abcd"] == (sorted(PICKS), 10)
    (own,) = [name for name in held["tags"] if name.startswith("coral-pool-")]
    assert held["tags"][own] == (sorted(NAMES), 10)
    assert held["scores"]["initial-tag", "uncertainty_margin"] == {"z.jpg": 0.1, "a.jpg": 0.2, "y.jpg": 0.3}
    assert held["scores"][own, "uncertainty_margin"] == dict(
        zip(small[1].file_names, small[1].scores["uncertainty_margin"].tolist(), strict=True)
    )
    assert (
        held["embeddings"] == {}
        and "has 2 samples that are not among the images of this run, such as 'y.jpg'" in caplog.text
    )
    send(server, *small)
    assert state(theirs) == held


def test_other_scores_on_the_same_images_stay(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    send(server, output, pool)
    first = state(server.dataset("the set"))
    other = replace(pool, scores={kind: values[::-1].copy() for kind, values in pool.scores.items()})
    send(server, output, other, picks=["v.jpg"], run_id="ffff0000")
    held = state(server.dataset("the set"))
    assert first["scores"].items() <= held["scores"].items() and len(held["scores"]) == 10
    assert held["tags"].keys() == first["tags"].keys() | {"coral-1-ffff0000"} | {
        name for name in held["tags"] if name.startswith("coral-pool-")
    }


def test_the_next_round_knows_fewer_and_more_images(server: LightlyServer, tmp_path: Path) -> None:
    rows = [row(name, seed=number) for number, name in enumerate(NAMES)]
    output, pool = filled(tmp_path / "one", NAMES)
    send(server, output, pool)
    server.polls_until_read = 0
    later = [*NAMES[2:], "w.jpg", "x.jpg"]
    rows = [row(name, boxes=1, seed=10 + number) for number, name in enumerate(later)]
    second = LocalFolder(str(tmp_path / "two"))
    from job import parts

    parts.write(second, rows, MADE_WITH)
    grown = load(second, rows)
    send(server, second, grown, picks=["w.jpg"], run_id="00000002")
    dataset = server.dataset("the set")
    assert sorted(dataset.names()) == sorted({*NAMES, *later})
    newest = dataset.vectors(dataset.embeddings[-1])
    assert newest.keys() == set(dataset.names())
    for name in dataset.names():
        of = grown if name in later else pool
        np.testing.assert_array_equal(newest[name], embeddings(of)[of.file_names.index(name)])
    # Vectors of another space are not mixed in.
    send(server, second, grown, picks=["w.jpg"], run_id="00000003", space="t" * 64)
    assert len(dataset.embeddings) == 2


def test_embeddings_without_their_file_are_made_again(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    send(server, *small)
    before = state(server.dataset("the set"))
    (embedding,) = server.dataset("the set").embeddings
    embedding.data, embedding.processed, embedding.maps = None, False, []
    for each in Path(small[0].uri).glob("parts/done-embedding-*"):
        each.unlink()
    send(server, *small)
    assert state(server.dataset("the set")) == before


def test_pages(
    server: LightlyServer, small: tuple[LocalFolder, Pool], undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_PAGE_SIZE", 3)
    send(server, *small)
    send(server, *small)
    assert state(server.dataset("the set")) == undisturbed
    assert server.calls["list_mappings"] == 6 and server.calls["list_samples"] >= 4


def test_names_that_would_be_refused_are_found_before_anything_is_sent(
    server: LightlyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = sorted([*NAMES, "line\nbreak.jpg", "n" * 251 + ".jpeg"], key=str.encode)
    output, pool = filled(tmp_path, names)
    send(server, output, pool, picks=["a.jpg", "line\nbreak.jpg"], max_failed=0.5)
    assert server.refusals == []
    assert sorted(server.dataset("the set").names()) == sorted(NAMES)
    report = json.loads(output.read("lightly.json"))
    assert [each["file_name"] for each in report["not_uploaded"]] == ["line\nbreak.jpg", "n" * 251 + ".jpeg"]
    assert "its name has 256 characters" in str(report) and "2 images cannot be uploaded" in caplog.text
    assert "Lightly's tag lacks 1 pick that could not be uploaded" in caplog.text
    assert state(server.dataset("the set"))["tags"]["coral-2-0123abcd"][0] == ["a.jpg"]


def test_an_image_that_the_platform_refuses_is_left_out(
    server: LightlyServer, small: tuple[LocalFolder, Pool], undisturbed: dict[str, Any]
) -> None:
    server.fail("create_sample_with_urls", Fault(400))
    with pytest.raises(TooManyFailedImages, match=r"'.*': Lightly refused the request to add a sample: made to fail"):
        send(server, *small)
    server.fail("create_sample_with_urls", Fault(422))
    send(server, *small, max_failed=0.5)
    report = json.loads(small[0].read("lightly.json"))
    assert len(report["not_uploaded"]) == 1
    send(server, *small)
    assert sorted(server.dataset("the set").names()) == sorted(NAMES), "it is tried again"


def test_a_quota_too_small_is_said_before_anything_is_sent(
    server: LightlyServer, small: tuple[LocalFolder, Pool]
) -> None:
    server.quota = 7
    with pytest.raises(SettingsError, match=r"allows 7 samples .* has 0, and 8 more would be added"):
        send(server, *small)
    assert server.dataset("the set").samples == []


def test_a_dataset_by_its_id(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    made = server.add_dataset("of somebody else")
    send(server, *small, lightly_dataset=made.id)
    assert len(made.samples) == 8
    with pytest.raises(SettingsError, match="no access to a dataset with this id"):
        send(server, *small, lightly_dataset="0" * 24)


def test_whole_files_and_names_only(server: LightlyServer, small: tuple[LocalFolder, Pool], tmp_path: Path) -> None:
    class Files(LocalFolder):
        def read(self, key: str, etag: str | None = None) -> bytes:
            assert etag == "e", "a file that has changed since is not to be uploaded"
            return super().read(key)

    source = Files(str(tmp_path / "in"))
    for name in NAMES[:-1]:
        source.write(name, b"file of " + name.encode())
    send(server, *small, lightly_images="full", source=source, lightly_dataset="full", max_failed=0.2)
    dataset = server.dataset("full")
    assert dataset.image_type == "full"
    files = {each.body["fileName"]: each.files.get("full") for each in dataset.samples}
    assert files == {name: b"file of " + name.encode() for name in NAMES[:-1]} | {"v.jpg": None}
    (lost,) = json.loads(small[0].read("lightly.json"))["not_uploaded"]
    assert lost == {"file_name": "v.jpg", "reason": "its file cannot be read: No such file or directory"}

    send(server, *small, lightly_images="none", lightly_dataset="names")
    dataset = server.dataset("names")
    assert dataset.image_type == "meta" and len(dataset.samples) == 8
    assert all(each.files == {} and "thumbName" not in each.body for each in dataset.samples)


def test_an_embedding_without_its_file_does_not_block_later_ones(server: LightlyServer, tmp_path: Path) -> None:
    output, pool = filled(tmp_path / "one", NAMES)
    send(server, output, pool)
    dataset = server.dataset("the set")
    dataset.embeddings[0].data, dataset.embeddings[0].processed, dataset.embeddings[0].maps = None, False, []
    fewer, rest = filled(tmp_path / "two", NAMES[:6])
    send(server, fewer, rest, picks=["a.png"])
    assert json.loads(fewer.read("lightly.json"))["embedding"] is None


def test_nothing_to_pick(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    send(server, *small, picks=[])
    assert json.loads(small[0].read("lightly.json"))["tag"] is None
    assert state(server.dataset("the set"))["tags"].keys() == {"initial-tag"}


def test_too_many_bad_names_are_said_before_anything_is_sent(server: LightlyServer, tmp_path: Path) -> None:
    output, pool = filled(tmp_path, sorted([*NAMES, "line\nbreak.jpg"], key=str.encode))
    for _ in range(2):
        with pytest.raises(TooManyFailedImages, match="line break"):
            send(server, output, pool)
    assert server.dataset("the set").samples == []


def test_a_tag_of_that_name_with_other_images_stays(server: LightlyServer, small: tuple[LocalFolder, Pool]) -> None:
    send(server, *small)
    send(server, *small, picks=["v.jpg", "t.jpg", "a.jpg"])
    send(server, *small, picks=["v.jpg", "t.jpg", "a.jpg"])
    held = state(server.dataset("the set"))["tags"]
    assert held["coral-3-0123abcd"][0] == sorted(PICKS)
    report = json.loads(small[0].read("lightly.json"))
    assert held[report["tag"]["name"]][0] == ["a.jpg", "t.jpg", "v.jpg"] and len(held) == 3


def test_names_that_are_twice_in_a_dataset_are_told_of(
    server: LightlyServer, small: tuple[LocalFolder, Pool], caplog: pytest.LogCaptureFixture
) -> None:
    server.add_dataset("the set", ("a.jpg", "a.jpg"))
    send(server, *small)
    assert "has 1 duplicate file name." in caplog.text


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masks_are_those_of_the_client(flags: list[bool]) -> None:
    theirs = BitMask(0)
    for number, flag in enumerate(flags):
        if flag:
            theirs.set_kth_bit(number)
    assert masks.encode(np.array(flags)) == theirs.to_hex()
    assert masks.decode(theirs.to_hex(), len(flags)).tolist() == flags


def test_embeddings_are_read_as_lightly_reads_them(
    server: LightlyServer, small: tuple[LocalFolder, Pool], tmp_path: Path
) -> None:
    from lightly.utils import io as lightly_io

    send(server, *small)
    (embedding,) = server.dataset("the set").embeddings
    (tmp_path / "embeddings.csv").write_bytes(embedding.data or b"")
    lightly_io.check_embeddings(str(tmp_path / "embeddings.csv"))
    vectors, labels, names = lightly_io.load_embeddings(str(tmp_path / "embeddings.csv"))
    assert names == server.dataset("the set").names() and labels == [0] * 8
    order = [small[1].file_names.index(name) for name in names]
    np.testing.assert_array_equal(vectors.astype(np.float32), embeddings(small[1])[order])


def test_rows_of_the_csv_survive_any_name() -> None:
    from job.lightly import embeddings as module

    names = ["comma,.jpg", 'quote".jpg', "ä.jpg", " .jpg"]
    vectors = {name: np.array([number / 3, 1e-9], np.float32) for number, name in enumerate(names)}
    file = io.StringIO(newline="")
    module._write(file, names, vectors)
    rows = list(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert rows[0] == ["filenames", "embedding_0", "embedding_1", "labels"]
    assert [each[0] for each in rows[1:]] == names
    read = module._read(file.getvalue().encode(), set(names[:3]))
    assert read.keys() == set(names[:3])
    assert all((read[name] == vectors[name]).all() for name in read)
