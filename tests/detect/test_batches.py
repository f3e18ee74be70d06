"""Batches of images of one shape."""

from hypothesis import given
from hypothesis import strategies as st

from job.detect.batches import Batcher


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.integers(1, 5), st.integers(1, 8), st.integers(0, 2**16))
def test_each_image_is_in_one_batch_of_its_shape_and_waiting_is_bounded(
    shapes: list[str], batch_size: int, waiting: int, seed: int
) -> None:
    batcher = Batcher[str, tuple[str, int]](lambda shape: batch_size, waiting, max_bytes=10**9)
    batches, held = [], 0
    for number, shape in enumerate(shapes):
        batch = batcher.add(shape, (shape, number), 1)
        held += 1 - len(batch)
        assert held <= waiting
        batches += [batch] if batch else []
    batches += batcher.flush()
    assert sorted(number for batch in batches for _, number in batch) == list(range(len(shapes)))
    assert all(len({shape for shape, _ in batch}) == 1 and len(batch) <= batch_size for batch in batches)
