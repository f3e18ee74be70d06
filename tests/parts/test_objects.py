"""The objects of the pool: a feature and a weight of each box, in the order of the images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from job import parts
from job.errors import DamagedFileError, SettingsError
from job.parts import checked, objects, pool
from job.parts.part import _PROVENANCE
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH, NAMES, entries, failed, row


def weigh(boxes: Any) -> Any:
    return boxes.scores * 2 + boxes.classes


def test_features_and_weights_come_in_the_order_of_the_images(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row(name, boxes=seed % 4, seed=seed) for seed, name in enumerate(NAMES)]
    parts.write(output, [*rows[4:], failed("broken.jpg")], MADE_WITH)
    parts.write(output, rows[:4], MADE_WITH)
    loaded = pool.load(output, entries([*rows, failed("broken.jpg")]))
    found = objects.read(output, loaded, weigh)
    ordered: list[Any] = sorted(rows, key=lambda each: each.file_name.encode())
    features = np.concatenate([each.box_features for each in ordered]).astype(np.float64)
    assert found.counts.tolist() == [len(each.scores) for each in ordered]
    assert np.array_equal(
        found.points.rows(range(len(features))), (features - features.mean(axis=0)).astype(np.float32)
    )
    expected = np.concatenate([each.scores.astype(np.float64) * 2 + each.classes for each in ordered])
    np.testing.assert_array_equal(found.weights, expected)


def test_images_without_boxes_have_no_objects(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row(name, boxes=0) for name in ("a.jpg", "b.jpg")]
    parts.write(output, rows, MADE_WITH)
    found = objects.read(output, pool.load(output, entries(rows)), weigh)
    assert found.counts.tolist() == [0, 0] and found.features.shape[0] == len(found.weights) == 0


def test_boxes_without_features_are_one_sentence(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [replace(row("a.jpg"), box_features=None), row("b.jpg")]
    parts.write(output, rows, MADE_WITH)
    with pytest.raises(SettingsError, match=r"their boxes have no features: .* Set CORAL_STRATEGY=coral, or another"):
        objects.read(output, pool.load(output, entries(rows)), weigh)


def test_another_number_of_boxes_than_before_is_damage(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row("a.jpg", boxes=2)]
    parts.write(output, rows, MADE_WITH)
    loaded = pool.load(output, entries(rows))
    (path,) = tmp_path.glob("parts/part-*")
    table = checked.load(pa.BufferReader(path.read_bytes()))
    for name in ("boxes", "scores", "classes", "class_probabilities", "box_features"):
        values = pa.array([table[name][0].as_py()[:1]], table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [values])
    path.write_bytes(checked.dump(table, {_PROVENANCE: MADE_WITH.to_json()}))
    with pytest.raises(DamagedFileError, match="an image has another number of boxes"):
        objects.read(output, loaded, weigh)
