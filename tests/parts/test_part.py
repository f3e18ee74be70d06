"""Parts, the folder they lie in, and the pool made of them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job import parts, scores
from job.errors import AccessDenied, DamagedFileError, ServiceUnavailable, SettingsError, TryAgain
from job.parts import Provenance, Row, boxes, pool
from job.storage import Entry
from job.storage.local import LocalFolder

MADE_WITH = Provenance("c" * 64, "w" * 64, "fp32", "softmax", ("a", "b", "c"))
NAMES = ["z.jpg", "a b.jpg", "a,b.jpg", "ä/ö.png", "a\u0308/o\u0308.png", "quote'\".jpg", "line\nbreak.jpg", ".dot.jpg"]


def row(key: str, boxes: int = 2, seed: int = 0, etag: str = "e") -> Row:
    rng = np.random.default_rng(seed)
    return Row(
        *(key, etag, 10, "ok", None, 64, 48),
        boxes=rng.random((boxes, 4), np.float32),
        scores=rng.random(boxes, np.float32),
        classes=rng.integers(0, 3, boxes).astype(np.int32),
        class_probabilities=rng.dirichlet(np.ones(4), boxes).astype(np.float16),
        box_features=rng.normal(size=(boxes, 3)).astype(np.float16),
        thumbnail=b"\xff\xd8" + key.encode(),
        feature=rng.random(6).astype(np.float16),
    )


def failed(key: str) -> Row:
    return Row(key, "e", 3, "failed", "not an image")


def entries(rows: list[Row]) -> list[Entry]:
    return sorted(
        (Entry(each.file_name, each.etag, each.byte_size) for each in rows), key=lambda each: each.key.encode()
    )


def test_everything_comes_back_by_the_name_of_its_image(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row(name, boxes=seed % 4, seed=seed) for seed, name in enumerate(NAMES)]
    parts.write(output, [*rows[:3], failed("broken.jpg")], MADE_WITH)
    parts.write(output, rows[3:], MADE_WITH)
    assert parts.find_done(output, MADE_WITH) == {(each.file_name, "e") for each in [*rows, failed("broken.jpg")]}

    listing = entries([*rows, failed("broken.jpg")])
    loaded = pool.load(output, listing)
    assert loaded.file_names == sorted(NAMES, key=str.encode)
    assert loaded.failures == [("broken.jpg", "not an image")]
    by_name = {each.file_name: each for each in rows}
    thumbnails = pool.thumbnails(output, loaded, range(len(rows)))
    assert loaded.features is not None
    for index, key in enumerate(loaded.file_names):
        np.testing.assert_array_equal(loaded.features.rows([index])[0], by_name[key].feature)
        assert thumbnails[index] == by_name[key].thumbnail
        assert loaded.num_boxes[index] == len(by_name[key].scores)  # type: ignore[arg-type]
        assert loaded.size[index].tolist() == [64, 48]
    found = boxes.detections(output, loaded, range(len(loaded.file_names)))
    for key, original in by_name.items():
        for name in ("boxes", "scores", "classes", "class_probabilities"):
            np.testing.assert_array_equal(getattr(found[key], name), getattr(original, name))


def test_scores_of_the_pool_are_those_of_each_image_alone(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row(f"{seed}.jpg", boxes=seed % 4, seed=seed) for seed in range(9)]
    for start in range(0, 9, 4):
        parts.write(output, rows[start : start + 4], MADE_WITH)
    loaded = pool.load(output, entries(rows))
    for score in scores.TABLE.values():
        values = []
        for each in rows:
            assert each.boxes is not None and each.scores is not None
            assert each.classes is not None and each.class_probabilities is not None
            boxes = scores.Boxes(
                counts=np.array([len(each.scores)]),
                boxes=each.boxes,
                scores=each.scores.astype(float),
                classes=each.classes,
                probabilities=scores.normalize(each.class_probabilities),
            )
            values.append(score.join(boxes, score.contributions(boxes))[0])
        expected = score.over_pool(np.array(values))
        np.testing.assert_allclose(loaded.scores[score.name], expected, rtol=0, atol=1e-12)


def test_what_the_map_step_scores_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    certain, even = [1, 0, 0, 0], [0.25] * 4
    two_of_b = Row(
        *("b.jpg", "e", 10, "ok", None, 64, 48),
        boxes=np.array([[0, 0, 9, 9], [1, 1, 5, 5], [2, 2, 4, 4]], np.float32),
        scores=np.array([0.75, 0.5, 0.125], np.float32),
        classes=np.array([1, 2, 1], np.int32),
        class_probabilities=np.array([certain, even, even], np.float16),
        thumbnail=b"",
    )
    parts.write(output, [two_of_b, Row.undetected("a.jpg"), failed("c.jpg")], MADE_WITH)
    (part,) = parts.read(output)
    columns = part.table.to_pydict()
    assert columns["num_boxes"] == [0, 3, None] and columns["expected_boxes"] == [0, 1.375, None]
    assert columns["score_object_frequency"] == [0, 2.25, None]  # two classes, one of them a second time
    assert columns["score_objectness_least_confidence"] == [0, 1.625 / 3, None]
    assert columns["score_entropy_sum"] == [0, 2, None] and columns["score_entropy_mean"] == [0, 2 / 3, None]
    assert columns["score_uncertainty_margin"] == [0, 1, None]
    assert columns["class_counts"] == [[], [[1, 2, 1], [2, 1, 0]], None]  # class, boxes, boxes below 0.2
    assert columns["class_sums"] == [[], [[0.875, 1], [0.5, 1]], None]  # confidences, entropies

    asked: list[list[str] | None] = []
    read = parts.read

    def recorded(output: LocalFolder, columns: list[str] | None = None) -> Iterator[parts.Part]:
        asked.append(columns)
        return read(output, columns)

    monkeypatch.setattr(parts, "read", recorded)
    listing = entries([two_of_b, Row.undetected("a.jpg"), failed("c.jpg")])
    listing = [Entry(each.key, "" if each.key == "a.jpg" else each.etag, each.size) for each in listing]
    loaded = pool.load(output, listing)
    weighted = pool.load(output, listing, {"*": 1, "b": 0.5})
    boxes = {"boxes", "scores", "classes", "class_probabilities"}
    assert [boxes & set(columns or []) for columns in asked] == [set(), boxes]
    assert loaded.class_counts.tolist() == [0, 2, 1] and loaded.class_low_confidence.tolist() == [0, 1, 0]
    assert loaded.class_scores.tolist() == [0, 0.875, 0.5] and loaded.class_entropies.tolist() == [0, 1, 1]
    assert weighted.scores["entropy_sum"].tolist() == loaded.scores["entropy_sum"].tolist() == [0, 2]
    assert weighted.scores["entropy_sum_weighted"].tolist() == [0, 1.5]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(1, 4))
def test_how_rows_are_cut_into_parts_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[int], size: int
) -> None:
    rows = [row(f"{seed}.jpg", count, seed) for seed, count in enumerate(boxes)]
    pools: list[pool.Pool] = []
    thumbnails = []
    for each in (size, len(rows)):
        output = LocalFolder(str(tmp_path_factory.mktemp("cut")))
        for start in range(0, len(rows), each):
            parts.write(output, rows[start : start + each], MADE_WITH)
        pools.append(pool.load(output, entries(rows)))
        thumbnails.append(pool.thumbnails(output, pools[-1], range(len(rows))))
    first, second = pools
    assert first.file_names == second.file_names and thumbnails[0] == thumbnails[1]
    assert first.features is not None and second.features is not None
    np.testing.assert_array_equal(first.features.read(0, 9), second.features.read(0, 9))
    for name in first.scores:
        np.testing.assert_array_equal(first.scores[name], second.scores[name])


def test_the_same_work_makes_the_same_file(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    name = parts.write(output, [row("a.jpg"), row("b.jpg")], MADE_WITH)
    content = (tmp_path / name).read_bytes()
    assert parts.write(output, [row("b.jpg"), row("a.jpg")], MADE_WITH) == name
    assert (tmp_path / name).read_bytes() == content
    assert [each.key for each in parts.list_files(output)] == [name]


def test_rows_done_twice_or_changed_or_gone(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    parts.write(output, [row("a.jpg", seed=1), row("b.jpg", seed=2)], MADE_WITH)
    parts.write(output, [row("a.jpg", seed=1), row("b.jpg", seed=3, etag="new"), row("gone.jpg")], MADE_WITH)
    loaded = pool.load(output, [Entry("a.jpg", "e", 10), Entry("b.jpg", "new", 10)])
    assert loaded.file_names == ["a.jpg", "b.jpg"]
    assert loaded.features is not None
    np.testing.assert_array_equal(loaded.features.rows([1])[0], row("b.jpg", seed=3).feature)
    with pytest.raises(TryAgain, match="1 image has no detections yet"):
        pool.load(output, [Entry("a.jpg", "e", 10), Entry("c.jpg", "e", 10)])


def test_a_part_of_failures_alone_and_a_model_without_a_feature(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    without = [Row(**{**vars(row(f"{seed}.jpg", seed=seed)), "feature": None}) for seed in range(2)]
    parts.write(output, without, MADE_WITH)
    parts.write(output, [failed("x.jpg"), failed("y.jpg")], MADE_WITH)
    loaded = pool.load(output, entries([*without, failed("x.jpg"), failed("y.jpg")]))
    assert loaded.features is None and len(loaded.failures) == 2


def test_who_could_not_read_does_not_undo_who_could(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    parts.write(output, [row("a.jpg"), row("b.jpg")], MADE_WITH)
    parts.write(output, [Row("a.jpg", "e", 10, "unread", "no answer"), row("b.jpg")], MADE_WITH)
    assert parts.find_done(output, MADE_WITH) == {("a.jpg", "e"), ("b.jpg", "e")}
    assert pool.load(output, entries([row("a.jpg"), row("b.jpg")])).failures == []


def test_a_part_that_was_removed_meanwhile_is_named(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    name = parts.write(output, [row("a.jpg")], MADE_WITH)
    gone = parts.FOLDER + "part-gone.parquet"
    assert [part.name for part in parts.read(output, names={name})] == [name]
    with pytest.raises(
        ServiceUnavailable, match=r"part-gone\.parquet was removed while the job ran: run the job again"
    ):
        list(parts.read(output, names={name, gone}))


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    name = parts.write(output, [row("a.jpg")], MADE_WITH)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedFileError, match=rf"{name} is damaged .*delete it"):
        list(parts.read(output))


def test_of_a_large_part_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = LocalFolder(str(tmp_path))
    noise = np.random.default_rng(0).bytes(3_000_000)
    parts.write(output, [Row(**{**vars(row("a.jpg")), "thumbnail": noise}), row("b.jpg")], MADE_WITH)
    lengths = []

    def counted(key: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return LocalFolder.read_range(output, key, start, length)

    monkeypatch.setattr(output, "read_range", counted)
    assert parts.find_done(output, MADE_WITH) == {("a.jpg", "e"), ("b.jpg", "e")}
    assert 0 < sum(lengths) < 200_000

    def refused(key: str, start: int, length: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output, "read_range", refused)
    with pytest.raises(AccessDenied, match=r"Cannot read .*: Permission denied"):
        parts.find_done(output, MADE_WITH)


def test_parts_of_other_settings_are_refused_with_the_ways_out(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    parts.write(output, [row("a.jpg")], MADE_WITH)
    other = Provenance(**{**vars(MADE_WITH), "weights_sha256": "x" * 64, "precision": "bf16"})
    with pytest.raises(SettingsError, match=r"different weights, precision.*new folder, or delete") as caught:
        parts.find_done(output, other)
    assert caught.value.exit_code == 64
    parts.write(output, [row("b.jpg")], other)
    with pytest.raises(SettingsError, match="different weights"):
        pool.load(output, entries([row("a.jpg"), row("b.jpg")]))


def test_provenance_names_an_embedder_only_if_there_is_one() -> None:
    """So parts without one keep their digests, and their names."""
    plain = Provenance("c", "w", "fp32", "softmax", ("car",))
    text = (
        '{"class_names": ["car"], "config_sha256": "c", "precision": "fp32", "probabilities": "softmax", '
        f'"schema_version": {parts.SCHEMA_VERSION}, "weights_sha256": "w"}}'
    )
    assert plain.to_json() == text and Provenance.from_json(text, "part") == plain
    with_embedder = replace(plain, embedder="timm:resnet50", embedder_sha256="e")
    assert Provenance.from_json(with_embedder.to_json(), "part") == with_embedder
    assert with_embedder.digest != plain.digest and not with_embedder.matches(plain)
    said = parts.describe_difference(plain, with_embedder)
    assert said == "different model of the embeddings, weights or precision of the embeddings' model"


def test_the_etag_of_an_imported_row_holds_that_of_its_file() -> None:
    renamed = parts.renamed_etag("images/a b.jpg", "123-45")
    assert renamed.startswith(parts.RENAMED) and parts.file_etag(renamed) == "123-45"
    assert renamed != parts.renamed_etag("other/a b.jpg", "123-45")
    assert parts.file_etag(parts.renamed_etag("a.jpg", "")) == "" and parts.file_etag("123-45") == "123-45"


def test_an_image_that_could_not_be_read_is_tried_again(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    unread = Row("a.jpg", "e", 10, "unread", "it cannot be read: Input/output error")
    parts.write(output, [unread, row("b.jpg")], MADE_WITH)
    assert parts.find_done(output, MADE_WITH) == {("b.jpg", "e")}
    listing = entries([unread, row("b.jpg")])
    assert pool.load(output, listing).failures == [("a.jpg", "it cannot be read: Input/output error")]
    parts.write(output, [row("a.jpg")], MADE_WITH)
    loaded = pool.load(output, listing)
    assert loaded.file_names == ["a.jpg", "b.jpg"] and loaded.failures == []
    found = boxes.detections(output, loaded, range(2))
    for key in ("a.jpg", "b.jpg"):
        np.testing.assert_array_equal(found[key].boxes, row(key).boxes)


def test_ragged_columns() -> None:
    kind = pa.list_(pa.int32())
    column = pa.chunked_array([pa.array([[1, 2], None, []], kind), pa.array([[3]], kind)])
    values, counts = parts.flatten_lists(column)
    assert (values.tolist(), counts.tolist()) == ([1, 2, 3], [2, 0, 0, 1])
