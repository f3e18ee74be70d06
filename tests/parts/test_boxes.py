"""The boxes are read once, and each reader takes those that it needs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from job.parts import boxes
from job.parts.pool import Pool
from job.storage.local import LocalFolder


@given(st.lists(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_rows_are_located_among_others(rows: list[int], among: set[int]) -> None:
    others = sorted(among)
    found = boxes.locate(np.array(rows, np.int64), np.array(others, np.int64))
    assert found.tolist() == [others.index(row) if row in among else -1 for row in rows]


def test_a_few_are_kept_without_the_rest_of_their_part(small: tuple[LocalFolder, Pool]) -> None:
    output, pool = small
    keeper = boxes.Keeper(pool, [6, 1])
    boxes.scan(output, pool, range(len(pool.file_names)), [keeper])
    expected = boxes.detections(output, pool, [1, 6])
    assert set(keeper.detections) == set(expected) == {pool.file_names[1], pool.file_names[6]}
    for name, found in keeper.detections.items():
        for kind, values in vars(found).items():
            assert values.base is None
            np.testing.assert_array_equal(values, getattr(expected[name], kind))
