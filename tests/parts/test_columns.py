"""The columns of parts, and long columns of texts."""

import mmap

import numpy as np
import pyarrow as pa

from job.parts.columns import copy_texts


def test_texts_behind_two_gibibytes_of_others() -> None:
    """The first text stands for those of millions of images; its memory is never touched."""
    count, before = 40, 1 << 31
    memory = mmap.mmap(-1, before + 10 * count)
    memory[before:] = b"".join(f"name-{number:05d}".encode() for number in range(count))
    ends = before + 10 * np.arange(1, count + 1)
    offsets = np.concatenate([[0, before], ends]).astype(np.int64)
    texts = pa.LargeStringArray.from_buffers(count + 1, pa.py_buffer(offsets), pa.py_buffer(memory))
    copied = copy_texts(texts, 11, 31)
    assert copied.type == pa.string()
    assert copied.to_pylist() == [f"name-{number:05d}" for number in range(10, 30)]
