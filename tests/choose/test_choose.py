"""Lists of strategies on a pool: against the product spelled out for every pick; and what is told of the picks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from job import choose, parts
from job.context import SelectionInputs
from job.errors import SettingsError
from job.parts import boxes, pool
from job.parts.pool import Pool
from job.publish import summary
from job.publish.results import explain
from job.select import Objects, Selection
from job.select.points import to_unit_length
from job.settings.choices import SCORES
from job.settings.strategy import parse_strategy
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.conftest import nothing_elsewhere, settings
from tests.parts.test_part import MADE_WITH, row
from tests.select.test_objects import naive
from tests.settings.test_strategy import entry

COUNT = 40


@pytest.fixture
def made(tmp_path: Path) -> tuple[LocalFolder, Pool, Any]:
    """Forty images in three folders, and their embeddings."""
    output = LocalFolder(str(tmp_path))
    rows = [row(f"{'abc'[number % 3]}/{number:02d}.jpg", boxes=number % 5, seed=number) for number in range(COUNT)]
    parts.write(output, rows, MADE_WITH)
    found = pool.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows], {"a": 3.0, "b": 0.0})
    return output, found, np.random.default_rng(0).normal(size=(COUNT, 4)).astype(np.float32)


def picked(made: tuple[LocalFolder, Pool, Any], entries: list[Any], count: int = 8, **more: Any) -> Selection:
    output, found, embeddings = made
    chosen = settings(strategy=json.dumps(entries), n_samples=count, **more)
    return choose.choose_among(chosen, output, found, embeddings, [found.file_names[3]])


def rows_of(selection: Selection) -> list[int]:
    return [pick.index for pick in selection.picks]


def test_entries_multiply(made: tuple[LocalFolder, Pool, Any]) -> None:
    _, found, embeddings = made
    entries = [
        entry("EMBEDDINGS", "DIVERSITY", strength=1.5),
        entry("SCORES", "WEIGHTS", {"scores": {"uncertainty_margin": 1, "entropy_sum": 1}}, strength=2),
        entry("METADATA", "WEIGHTS", {"key": "num_boxes"}, strength=0.5),
        entry("METADATA", "THRESHOLD", {"key": "num_boxes"}, threshold=1, operation="BIGGER"),
    ]
    points = to_unit_length(embeddings).astype(np.float64)
    total = found.scores["entropy_sum"]
    mixed = 0.5 * found.scores["uncertainty_margin"] + 0.5 * total / max(1, total.max())
    weight = (0.05 + 0.95 * mixed) ** 2 * (0.05 + 0.95 * found.num_boxes / found.num_boxes.max()) ** 0.5
    expected, taken = [], [3]
    for _ in range(8):
        distance = np.linalg.norm(points[:, None] - points[taken][None], axis=2).min(1)
        value = np.where(found.num_boxes > 1, distance**1.5 * weight, -1)
        value[taken] = -1
        expected.append(int(value.argmax()))
        taken.append(expected[-1])
    selection = picked(made, entries)
    assert rows_of(selection) == expected
    assert [each.name for each in selection.factors] == ["uncertainty_margin+entropy_sum", "num_boxes"]


def test_rejected_picks_are_those_that_the_greedy_skips(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, embeddings = made
    labelled = [found.file_names[3]]
    sequence = rows_of(choose.choose_among(settings(n_samples=20), output, found, embeddings, labelled))
    # Rejected: the first pick, one that comes later, and an image that only replaces another rejected one.
    rejected = {found.file_names[sequence[number]] for number in (0, 4, 8)} | {labelled[0]}
    chosen = choose.choose_without(rejected, settings(n_samples=8), output, found, embeddings, labelled)
    assert rows_of(chosen) == [sequence[number] for number in (1, 2, 3, 5, 6, 7, 9, 10)]
    everything = choose.choose_without(
        set(found.file_names), settings(n_samples=8), output, found, embeddings, labelled
    )
    assert rows_of(everything) == []


def test_with_rejected_picks_the_parts_are_read_once(
    made: tuple[LocalFolder, Pool, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, found, embeddings = made
    entries = [entry("EMBEDDINGS", "DIVERSITY"), entry("PREDICTIONS", "BALANCE", target={"a": 0.5})]
    chosen, reads = settings(strategy=json.dumps(entries), n_samples=5), []

    def counted(key: str) -> Iterator[Entry]:
        reads.append(key)
        return LocalFolder.list(output, key)

    monkeypatch.setattr(output, "list", lambda key, keep=None: counted(key))
    plain = choose.choose_without(frozenset(), chosen, output, found, embeddings, [])
    assert len(reads) == 1
    rejected = {found.file_names[row] for row in rows_of(plain)[:3]}
    replaced = choose.choose_without(rejected, chosen, output, found, embeddings, [])
    assert len(reads) == 2 and len(rows_of(replaced)) == 5 and rows_of(replaced)[:2] == rows_of(plain)[3:]


def test_top_comes_after_thresholds_wherever_it_stands(made: tuple[LocalFolder, Pool, Any]) -> None:
    _, found, _ = made
    narrow = [
        entry("SCORES", "TOP", {"score": "entropy_sum"}, factor=2),
        entry("EMBEDDINGS", "DIVERSITY"),
        entry("METADATA", "THRESHOLD", {"key": "num_boxes"}, threshold=3, operation="SMALLER"),
    ]
    usable = [
        number for number in np.argsort(-found.scores["entropy_sum"], kind="stable") if found.num_boxes[number] < 3
    ]
    best = [int(number) for number in usable if number != 3][:8]
    found_rows = rows_of(picked(made, narrow, count=4))
    assert len(found_rows) == 4 and set(found_rows) <= set(best)


def test_balance_fills_what_is_rare(made: tuple[LocalFolder, Pool, Any]) -> None:
    _, found, _ = made
    folders = [key[0] for key in found.file_names]
    even = rows_of(picked(made, [entry("METADATA", "BALANCE", {"key": "folder"}, distribution="UNIFORM")], count=11))
    # With the labelled image, four of each.
    assert sorted([folders[3], *(folders[each] for each in even)]) == ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    mostly = [entry("METADATA", "BALANCE", {"key": "folder"}, target={"b": 0.75, "c": 0.25})]
    counts = [[folders[each] for each in rows_of(picked(made, mostly, count=12))].count(name) for name in "abc"]
    assert counts[0] == 0 and counts[1] > 2 * counts[2] > 0


def test_balance_by_predicted_classes_is_that_of_a_loop(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, embeddings = made
    entries = [
        entry("PREDICTIONS", "BALANCE", target={"a": 0.2, "c": 0.5}, strength=2),
        entry("EMBEDDINGS", "DIVERSITY"),
    ]
    detections = boxes.detections(output, found, range(COUNT))
    shares = np.zeros((COUNT, 3))
    for number, key in enumerate(found.file_names):
        for each in detections[key].classes:
            shares[number, each] += 1 / len(detections[key].classes)
    target, points = np.array([0.2, 0.3, 0.5]), to_unit_length(embeddings).astype(np.float64)
    taken = [3]
    for _ in range(8):
        so_far = shares[taken].sum(0) / max(1e-300, shares[taken].sum())
        balance = 0.05 + 0.95 * (shares * target / (target + so_far)).sum(1)
        distance = np.linalg.norm(points[:, None] - points[taken][None], axis=2).min(1)
        value = balance**2 * distance
        value[taken] = -1
        taken.append(int(value.argmax()))
    selection = picked(made, entries)
    assert rows_of(selection) == taken[1:]
    assert all(pick.value == pytest.approx(pick.balance * (pick.distance or 0)) for pick in selection.picks)


def test_objects_weigh_what_they_contribute_to_the_score(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, embeddings = made
    detections = boxes.detections(output, found, range(COUNT))
    table = pa.concat_tables([part.table.select(["key", "box_features"]) for part in parts.read(output)])
    features = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    joined = np.concatenate([np.array(features[key], np.float64).reshape(-1, 3) for key in found.file_names])
    weights = []
    for key in found.file_names:
        for probabilities, label in zip(detections[key].class_probabilities, detections[key].classes, strict=True):
            shares = probabilities.astype(np.float64) / probabilities.astype(np.float64).sum()
            second, high = np.sort(shares)[-2:]
            uncertain = 0.5 * (1 - high + second) + 0.5 * (-(shares * np.log2(shares)).sum() / 2)
            weights.append(uncertain * (1.0, 0.0, 1 / 3)[label])  # of 3, 0 and, where none is given, 1
    centered = (joined - joined.mean(axis=0)).astype(np.float32)
    objects = Objects(found.num_boxes.astype(np.int64), centered, np.array(weights), 0.5)
    given: dict[str, Any] = {"score": "uncertainty_margin=1,entropy_sum=1", "class_weights": {"a": 3.0, "b": 0.0}}
    both = [entry("EMBEDDINGS", "DIVERSITY", {"task": "objects"}, strength=0.5), entry("EMBEDDINGS", "DIVERSITY")]
    expected = naive(embeddings, np.ones(COUNT), objects, 8, 1, [3])
    assert rows_of(picked(made, both, **given)) == expected
    named = settings(strategy="coral_objects", n_samples=8, **given)
    assert rows_of(choose.choose_among(named, output, found, embeddings, [found.file_names[3]])) == expected


def test_similarity_finds_what_is_near(made: tuple[LocalFolder, Pool, Any]) -> None:
    _, found, embeddings = made
    entries = [entry("EMBEDDINGS", "SIMILARITY", images=[found.file_names[9], found.file_names[20]])]
    points = to_unit_length(embeddings).astype(np.float64)
    distance = np.linalg.norm(points[:, None] - points[[9, 20]][None], axis=2).min(1)
    distance[3] = np.inf
    assert rows_of(picked(made, entries, count=6)) == np.argsort(distance, kind="stable")[:6].tolist()
    respelled = [f".\\{name}".replace("/", "\\") for name in entries[0]["strategy"]["images"]]
    entries = [entry("EMBEDDINGS", "SIMILARITY", images=respelled)]
    assert rows_of(picked(made, entries, count=6)) == np.argsort(distance, kind="stable")[:6].tolist()


def test_random_and_typicality_in_a_list_are_those_by_name(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, embeddings = made
    for name, entries in (
        ("random", [entry("RANDOM", "WEIGHTS")]),
        ("typicality", [entry("EMBEDDINGS", "TYPICALITY"), entry("EMBEDDINGS", "DIVERSITY")]),
    ):
        named = settings(strategy=name, n_samples=8, seed=4)
        expected = choose.choose_among(named, output, found, embeddings, [found.file_names[3]])
        assert rows_of(picked(made, entries, seed=4)) == rows_of(expected)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            entry("METADATA", "WEIGHTS", {"key": "heigth"}),
            "column 'heigth', which does not exist: use folder, byte",
        ),
        (entry("METADATA", "WEIGHTS", {"key": "folder"}), "the column is text"),
        (entry("EMBEDDINGS", "SIMILARITY", images=["no.jpg"]), "'no.jpg', which is not a usable image"),
        (entry("EMBEDDINGS", "SIMILARITY", images=["a/00.JPG"]), "the case of letters: 'a/00.JPG' and 'a/00.jpg'"),
        (
            entry("PREDICTIONS", "BALANCE", target={"cow": 0.5}),
            "class 'cow', which does not exist: use a, b, c",
        ),
        (
            entry("METADATA", "BALANCE", {"key": "folder"}, target={"d": 1}),
            "folder 'd', which does not exist: use a",
        ),
    ],
)
def test_what_is_not_in_the_pool_is_said(made: tuple[LocalFolder, Pool, Any], given: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        picked(made, [given])


def test_weights_of_classes(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, _ = made
    detections = boxes.detections(output, found, range(COUNT))
    for number, key in enumerate(found.file_names):
        each = detections[key]
        weights = np.array([1, 0, 1 / 3])[each.classes]
        expected = float((weights * (1 - each.scores.astype(np.float64))).sum()) / max(1, len(weights))
        assert found.scores["objectness_least_confidence_weighted"][number] == pytest.approx(expected)
    assert set(found.scores) == {*SCORES, *(f"{name}_weighted" for name in SCORES)}
    weighted = choose.ranking_score(settings(class_weights={"a": 3.0}, score="entropy_sum"), found)
    assert weighted is found.scores["entropy_sum_weighted"]
    with pytest.raises(SettingsError, match="names 'cow', which is not a class of the detector: use a, b, c"):
        pool.load(output, [], {"cow": 1.0})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"car": 3.0}, [1, 1 / 3, 1 / 3]),
        ({"*": 0.0, "car": 1.0}, [1, 0, 0]),
        ({"*": 0.5, "cell phone": 2.0}, [0.25, 0.25, 1]),
        ({"*": 7.0}, [1, 1, 1]),
        ({"car": 0.0}, [0, 1, 1]),
        ({"*": 4.0, "car": 1.0, "tv": 2.0, "cell phone": 0.0}, [0.5, 1, 0]),  # a star with nothing left changes nothing
    ],
)
def test_a_star_weighs_all_other_classes(given: dict[str, float], expected: list[float]) -> None:
    assert pool.class_weight_array(given, ["car", "tv", "cell phone"]).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "says"), [({"*": 0.0}, "every class the weight 0"), ({"*": 0, "cow": 1}, "names 'cow'")]
)
def test_a_star_is_no_excuse(given: dict[str, float], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        pool.class_weight_array(given, ["car", "tv", "cell phone"])


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cellphone", "cell phone"), ("TV", "tv"), ("Car", "car"), ("car ", "car"), ("elephant", None), ("x" * 500, None)],
)
def test_what_class_was_meant(name: str, meant: str | None) -> None:
    classes = ["car", "tv", "cell phone", *(f"class {number}" for number in range(77))]
    balance = parse_strategy(json.dumps([entry("PREDICTIONS", "BALANCE", target={name: 0.5})]))
    for given in ({"class_weights": {name: 1.0}}, {"strategy": balance.text}):
        with pytest.raises(SettingsError) as caught:
            choose.check_classes(settings(**given), classes)
        shown = "use car, tv, cell phone, class 0, class 1, class 2, class 3, class 4, class 5, class 6 ..."
        hint = f" (did you mean {meant}?)" if meant else ""
        assert repr(name[:80]) in str(caught.value) and str(caught.value).endswith(f"{shown}{hint}.")
        assert len(str(caught.value)) < 300


def test_what_is_told_of_the_picks(made: tuple[LocalFolder, Pool, Any]) -> None:
    output, found, embeddings = made
    chosen = settings(n_samples=6, cost_per_image=2.0, cost_per_box=0.5)
    labelled = [found.file_names[3]]
    selection = choose.choose_among(chosen, output, found, embeddings, labelled)
    everything = SelectionInputs(found, embeddings, {"method": "detector"}, labelled, nothing_elsewhere(4), {}, "0")
    detections = boxes.detections(output, found, rows_of(selection))
    selected = explain(chosen, everything, selection, detections, "local")
    for each, pick in zip(selected, selection.picks, strict=True):
        assert each.value == pytest.approx(each.factors["distance"] * each.factors["utility"] ** 0.5)
        seen = detections[each.file_name]
        assert len(each.boxes) == min(3, len(seen.scores))
        assert [box["contribution"] for box in each.boxes] == sorted(
            (b["contribution"] for b in each.boxes), reverse=True
        )
        if len(seen.scores) <= 3:
            total = sum(box["contribution"] for box in each.boxes)
            assert total == pytest.approx(found.scores["entropy_sum"][pick.index], abs=1e-9)
    points = to_unit_length(embeddings).astype(np.float64)
    every = np.linalg.norm(points[:, None] - points[None], axis=2)
    distance = every[:, [3, *rows_of(selection)]].min(axis=1)
    told = summary.gather(chosen, everything, selection, detections, distance)
    assert told["covering_radius"] == pytest.approx(distance.max(), abs=1e-6)
    radii = []
    for seed in range(20):
        drawn = np.random.default_rng(seed).choice(np.delete(np.arange(COUNT), 3), 6, False)
        radii.append(every[:, [3, *drawn]].min(axis=1).max())
    assert told["covering_radius_random"] == pytest.approx(np.mean(radii), abs=1e-4)
    apart = every[np.ix_(rows_of(selection), rows_of(selection))]
    assert told["near_duplicate_pairs"] == int((apart < 0.1).sum() - 6) // 2
    assert told["without_boxes"] == {
        "pool": pytest.approx(8 / 40),
        "picks": pytest.approx(sum(not len(each.scores) for each in detections.values()) / 6, abs=1e-6),
    }
    counts = np.bincount(np.concatenate([each.classes for each in detections.values()]), minlength=3)
    assert [told["classes"][name]["picks"] for name in "abc"] == counts.tolist()
    assert sum(each["pool"] for each in told["classes"].values()) == found.num_boxes.sum()
    expected = sum(float(each.scores.sum(dtype=np.float64)) for each in detections.values())
    assert told["expected_boxes"] == pytest.approx(expected, abs=1e-3)
    assert told["expected_cost"] == pytest.approx(6 * 2 + expected * 0.5, abs=0.01)
