"""The boxes that are read once: who needs some of them gets these."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from job.parts.boxes import locate


@given(st.lists(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_rows_are_located_among_others(rows: list[int], among: set[int]) -> None:
    others = sorted(among)
    found = locate(np.array(rows, np.int64), np.array(others, np.int64))
    assert found.tolist() == [others.index(row) if row in among else -1 for row in rows]
