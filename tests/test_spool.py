import errno
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.errors import ServiceUnavailable
from job.select.points import ArrayPoints
from job.spool import Spool, SpooledBytes, SpooledRows
from tests.conftest import ROOT


def test_a_spool_is_read_back_whole_by_several_readers() -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    made = Spool()
    assert made.file.write(data[:10]) == 10 and made.file.write(data[10:]) == len(data) - 10
    assert len(made) == len(data) and b"".join(made.blocks()) == data
    assert made.sha256() == hashlib.sha256(data).hexdigest()
    first, second = made.open(), made.open()
    assert first.read(7) == data[:7] and second.read() == data and first.read() == data[7:]
    assert first.seek(-4, os.SEEK_END) == len(data) - 4 and first.read() == data[-4:]
    assert first.seek(0) == 0 and first.read(2) == data[:2] and first.tell() == 2


@given(st.lists(st.binary(max_size=9)), st.data())
def test_bytes_written_in_any_order_are_read_by_their_number(files: list[bytes], data: st.DataObject) -> None:
    made = SpooledBytes(len(files))
    for number in data.draw(st.permutations(range(len(files)))):
        assert made[number] == b""
        made.write(number, files[number])
    assert list(made) == files


@given(st.integers(0, 40), st.integers(1, 5), st.data())
def test_rows_are_those_of_an_array(count: int, width: int, data: st.DataObject) -> None:
    array = np.random.default_rng(count).normal(size=(count, width)).astype(np.float32)
    made = SpooledRows(array.shape)
    order = np.array(data.draw(st.permutations(range(count))), np.int64)
    for some in np.array_split(order, 3):
        made.scatter(some, array[some])
    np.testing.assert_array_equal(made.read(0, count), array)
    wanted = data.draw(st.lists(st.integers(0, count - 1), max_size=9)) if count else []
    np.testing.assert_array_equal(made.rows(wanted), array[wanted])
    kept = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    made.keep(kept)
    assert made.shape == (len(kept), width) and len(made) == len(kept)
    np.testing.assert_array_equal(made.read(0, count), array[kept])


def test_blocks_are_those_of_an_array() -> None:
    array = np.random.default_rng(0).normal(size=(5000, 300)).astype(np.float32)
    made = SpooledRows(array.shape)
    made.write(0, array)
    blocks = list(made.blocks())
    for (start, block), (expected_start, expected) in zip(blocks, ArrayPoints(array).blocks(), strict=True):
        assert start == expected_start
        np.testing.assert_array_equal(block, expected)
    made.keep(np.arange(1, 5000, 2))
    np.testing.assert_array_equal(made.read(0, 5000), array[1::2])


def test_nothing_stays_after_a_kill(tmp_path: Path) -> None:
    code = "import os, signal; from job.spool import *; a = Spool(); a.file.write(b'1' * 99); b = SpooledRows((9, 9)); "
    code += "print(len(a)); os.kill(os.getpid(), signal.SIGKILL)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True
    )
    assert result.returncode == -9, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = Spool(), SpooledRows((2, 2))

    def fail(*arguments: object, **options: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(ServiceUnavailable, match=r"for temporary files, .*, is full: make room, or set TMPDIR"):
        rows.write(0, np.zeros((2, 2)))
    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(ServiceUnavailable, match="is full"):
        Spool()
    with Path("/dev/full").open("r+b") as full:
        os.dup2(full.fileno(), made.file.fileno())
        with pytest.raises(ServiceUnavailable, match="is full"):
            made.file.write(b"1")


def test_rows_that_no_file_may_hold() -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ServiceUnavailable, match="is full"):
            SpooledRows((1 << 10, 1 << 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
