"""Batches as rows of parts: thresholds, rounding, sizes and scores."""

from pathlib import Path

import numpy as np

from job import parts
from job.parts import pool
from job.storage import Entry
from job.storage.local import LocalFolder
from tests.external import arrays, coco, in_file, read
from tests.parts.test_part import MADE_WITH


def test_boxes_below_a_score_are_left_out_and_names_stay_as_they_are(tmp_path: Path) -> None:
    content = coco()
    for each, name in zip(content["images"], ["/abs/z.jpg", "../up.jpg", "a\nb"], strict=True):
        each["file_name"] = name
    found = read(in_file(tmp_path, content), min_score=0.75)
    assert [each.file_name for each in found.rows] == ["../up.jpg", "/abs/z.jpg", "a\nb"]
    assert [len(arrays(each)[1]) for each in found.rows] == [0, 1, 1]
    assert arrays(found.rows[1])[0].tolist() == [[0, 0, 1, 1]] and arrays(found.rows[1])[3].shape == (1, 4)


def test_a_score_that_was_rounded_above_1_is_1(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][1]["score"] = 1 + 2**-23
    (box_score,), (row,) = arrays(read(in_file(tmp_path, content)).rows[1])[1::2]
    assert box_score == 1 and row.tolist() == [0, 1, 0, 0]


def test_the_rows_make_parts_and_scores(tmp_path: Path) -> None:
    content = coco()
    content["images"][1] |= {"width": 1, "height": 1}
    found = read(in_file(tmp_path, content))
    output = LocalFolder(str(tmp_path / "out"))
    parts.write(output, found.rows, MADE_WITH)
    loaded = pool.load(output, [Entry(each.file_name, "", 0) for each in found.rows])
    assert loaded.file_names == [each.file_name for each in found.rows] and loaded.num_boxes.tolist() == [0, 1, 2]
    entropy = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75)) / np.log2(4)  # the same for 0.25 and for 0.75
    np.testing.assert_allclose(loaded.scores["uncertainty_entropy"], [0, 0, entropy])
    assert loaded.size.tolist() == [[1, 1], [32, 16], [640, 480]] and loaded.features is None


def test_unknown_sizes_are_null_in_parts(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    parts.write(output, read(in_file(tmp_path, coco())).rows, MADE_WITH)
    (part,) = parts.read(output)
    assert part.table["width"].to_pylist() == [None, 32, 640] and part.table["thumbnail"].to_pylist() == [b""] * 3
