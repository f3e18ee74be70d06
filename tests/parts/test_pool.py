"""The pool, against values that are counted box by box."""

from pathlib import Path

import numpy as np
import pytest

from job import parts
from job.parts import pool as pools
from job.storage.local import LocalFolder
from tests.parts.test_part import MADE_WITH, entries, row


def test_class_shares_are_those_of_the_boxes(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path))
    rows = [row(f"{number}.jpg", boxes=number % 4, seed=number) for number in range(9)]
    parts.write(output, rows[:4], MADE_WITH)
    parts.write(output, rows[4:], MADE_WITH)
    pool = pools.load(output, entries(rows))
    expected = np.zeros((9, len(MADE_WITH.class_names)))
    for number, name in enumerate(pool.file_names):
        classes = next(one for one in rows if one.file_name == name).classes
        assert classes is not None
        for index in classes:
            expected[number, index] += 1 / len(classes)
    assert expected.sum() == pytest.approx(6)
    np.testing.assert_allclose(pools.class_shares(output, pool), expected)
