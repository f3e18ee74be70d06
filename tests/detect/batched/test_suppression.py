"""Suppression in rounds keeps the boxes that torchvision's loop keeps."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from job.detect.batched.suppression import ROUNDS, find_conflicts, suppress


def keep_all(conflicts: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Continues until all groups are settled, and returns the kept boxes and the number of calls."""
    kept, settled, calls = *suppress(conflicts, candidates), 1
    while not settled.all():
        kept, settled = suppress(conflicts, candidates, kept)
        calls += 1
    return kept, calls


def keep_by_loop(boxes: torch.Tensor, candidates: torch.Tensor, threshold: float) -> torch.Tensor:
    index = candidates.nonzero()[:, 0]
    scores = torch.arange(len(index), 0, -1, dtype=torch.float32)
    kept = torch.zeros_like(candidates)
    kept[index[nms(boxes[index], scores, threshold)]] = True
    return kept


@given(
    st.integers(0, 1000),
    st.integers(1, 150),
    st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0]),
    st.booleans(),
)
def test_the_kept_boxes_are_those_of_the_loop(seed: int, count: int, threshold: float, whole: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(3, count, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + torch.rand(3, count, 2, generator=generator) * 20], dim=2)
    if whole:  # many equal boxes, empty boxes, and overlaps of exactly the threshold
        boxes = boxes.div(4).round()
    candidates = torch.rand(3, count, generator=generator) < 0.9
    kept, _ = keep_all(find_conflicts(boxes, threshold), candidates)
    for group in range(3):
        assert torch.equal(kept[group], keep_by_loop(boxes[group], candidates[group], threshold))


@pytest.mark.parametrize("threshold", [0.6, 0.5, 0.2])
def test_an_overlap_of_the_threshold_is_compared_in_double_precision(threshold: float) -> None:
    # Overlaps 3 / 5, 2 / 4 and 1 / 5: as float32, 0.6 and 0.2 are more than the number, and 0.5 is the number.
    boxes = {0.6: [[0, 4], [1, 5]], 0.5: [[0, 3], [1, 4]], 0.2: [[0, 3], [2, 5]]}[threshold]
    pair = torch.tensor([[left, 0, right, 1] for left, right in boxes], dtype=torch.float32)
    everything = torch.ones(1, 2, dtype=torch.bool)
    kept, _ = keep_all(find_conflicts(pair[None], threshold), everything)
    assert kept[0].tolist() == [True, threshold == 0.5]
    assert torch.equal(kept[0], keep_by_loop(pair, everything[0], threshold))


@pytest.mark.parametrize("length", [1, ROUNDS - 1, ROUNDS, ROUNDS + 1, 100, 500])
def test_a_long_chain_of_boxes_is_settled_by_continuing(length: int) -> None:
    # Each box overlaps the next: the first is kept, the second is not, the third is, ...
    left = torch.arange(length, dtype=torch.float32) * 3
    boxes = torch.stack([left, left * 0, left + 10, left * 0 + 10], dim=1)
    kept, calls = keep_all(find_conflicts(boxes[None], 0.5), torch.ones(1, length, dtype=torch.bool))
    assert kept[0].tolist() == [number % 2 == 0 for number in range(length)]
    assert calls == max(1, -(-length // ROUNDS))


def test_boxes_of_different_classes_do_not_conflict() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]] * 4)[None]
    classes = torch.tensor([[1, 2, 1, 2]])
    kept, _ = keep_all(find_conflicts(boxes, 0.5, classes), torch.ones(1, 4, dtype=torch.bool))
    assert kept.tolist() == [[True, True, False, False]]


def test_many_groups_are_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes: Any = torch.rand(7, 70, 4).sort(dim=2).values
    whole = find_conflicts(boxes, 0.3)
    monkeypatch.setattr("job.detect.batched.suppression._MAX_PAIRS", 2 * 70 * 70)
    assert torch.equal(find_conflicts(boxes, 0.3), whole)
