"""Cores and memory, in containers of both versions of control groups."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from job import cli, images, limits
from job.parts import checked
from tests.conftest import ROOT

GIB = 1 << 30


def write_groups(root: Path, groups: str | None, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{value}\n")
    if groups is not None:
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(groups)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"sys/fs/cgroup/memory.max": 2 * GIB}, 2 * GIB),  # in a container, version 2
        ("0::/\n", {"sys/fs/cgroup/memory.max": "max"}, None),
        ("0::/a/b\n", {"sys/fs/cgroup/a/memory.max": GIB, "sys/fs/cgroup/a/b/memory.max": 2 * GIB}, GIB),
        ("0::/elsewhere\n", {"sys/fs/cgroup/memory.max": GIB}, GIB),
        (
            "5:cpu,cpuacct:/x\n4:memory:/docker/x\n0::/\n",
            {"sys/fs/cgroup/memory/memory.limit_in_bytes": GIB},
            GIB,
        ),  # in a container, version 1
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712}, None),
        (None, {}, None),
    ],
)
def test_memory(tmp_path: Path, groups: str | None, files: dict[str, Any], limit: int | None) -> None:
    write_groups(tmp_path, groups, files)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert limits.memory_limit(tmp_path) == (limit or whole)


V1 = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),  # in a container, version 2
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000"}, 64),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "25000 100000"}, 1),
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "200000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 2),
        ("3:cpu,cpuacct:/docker/x\n0::/\n", {f"{V1}/cpu.cfs_quota_us": 300000, f"{V1}/cpu.cfs_period_us": 100000}, 3),
        ("3:cpu,cpuacct:/\n", {f"{V1}/cpu.cfs_quota_us": -1, f"{V1}/cpu.cfs_period_us": 100000}, 64),
        ("0::/\n", {"sys/fs/cgroup/cpu.max": "900000 100000"}, 8),  # more than the affinity
        (None, {}, 64),
    ],
)
def test_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str | None, files: dict[str, Any], cores: int
) -> None:
    write_groups(tmp_path, groups, files)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8 if cores == 8 else 64)))
    assert limits.count_cores(tmp_path) == cores
    environment: dict[str, str] = {}
    limits.limit_threads(environment, tmp_path)
    assert environment == ({"OMP_NUM_THREADS": str(cores)} if cores not in (8, 64) else {})
    environment = {"OMP_NUM_THREADS": "7"}
    limits.limit_threads(environment, tmp_path)
    assert environment == {"OMP_NUM_THREADS": "7"}


@pytest.fixture
def group_of_one_core() -> Iterator[Path]:
    """A control group of this machine that is limited to one core."""
    root = Path("/sys/fs/cgroup/cpu" if Path("/sys/fs/cgroup/cpu").is_dir() else "/sys/fs/cgroup")
    group = root / f"coralpick-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group may be made")
    try:
        if (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        elif (group / "cpu.cfs_quota_us").exists():
            (group / "cpu.cfs_quota_us").write_text("100000")
        else:
            pytest.skip("control groups do not limit cores")
        yield group
    finally:
        group.rmdir()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core")
def test_torch_follows_a_real_limit(group_of_one_core: Path) -> None:
    script = (
        "import os, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from job import cli\n"
        "sys.argv[1:] = ['--version']\n"
        "cli.main()\n"
        "import torch\n"
        "from job import limits\n"
        "print(torch.get_num_threads(), limits.count_cores())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", script, str(group_of_one_core)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["1", "1"]


@pytest.mark.parametrize("format_name", ["webp", "bmp", "gif", "tiff", "jp2", "jpg", "png"])
def test_an_image_without_memory_is_not_damaged(tmp_path: Path, format_name: str) -> None:
    """In a process whose memory is really limited."""
    file = tmp_path / f"a.{format_name}"
    side = 4000
    PIL.Image.new("RGB", (side, side), (200, 10, 30)).save(
        file, **({"compression": "tiff_lzw"} if format_name == "tiff" else {})
    )
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from job import images\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 20_000_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    images.decode(data)\n"
        "except MemoryError:\n"
        "    print('memory')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("memory\n", 0), done.stderr
    assert images.decode(file.read_bytes()).shape == (side, side, 3)


def test_a_table_without_memory_is_not_damaged(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(checked.dump(pa.table({"a": np.zeros(10_000_000)}), {b"made": "here"}))
    script = (
        "import io, resource, sys\n"
        "from pathlib import Path\n"
        "from job.parts import checked\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "checked.load(io.BytesIO(Path(sys.argv[2]).read_bytes()))\n"  # so that Arrow's threads have their stacks
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    checked.load(io.BytesIO(data))\n"
        "except MemoryError:\n"
        "    print('memory')\n"
    )
    small = tmp_path / "small.parquet"
    small.write_bytes(checked.dump(pa.table({"a": np.zeros(10)}), {b"made": "here"}))
    done = subprocess.run(
        [sys.executable, "-c", script, file, small],
        env=os.environ | {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("memory\n", 0), done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 74.5 GiB"),
        pa.ArrowMemoryError("realloc of size 11712 failed"),
        cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 1 bytes in function"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_is_the_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(**options: Any) -> None:
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)  # in place of a command that needs more memory than there is
    assert cli.main() == 69
    assert [record.exc_info for record in caplog.records] == [None]
    assert "There is not enough memory (" in caplog.text and "(--memory, or" in caplog.text


def test_a_fault_of_the_job_is_not_told_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise ValueError("memory of a colour profile")

    monkeypatch.setattr(cli.cli, "main", fail)
    assert cli.main() == 70
    assert not limits.lacks_memory(ValueError("damaged"))


def test_memory_that_is_free_again_goes_back_to_the_system() -> None:
    """In a process of its own: Arrow keeps 128 MB of freed arrays, and the function returns most of them."""
    code = """
import pyarrow as pa
from job import limits
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
kept = [pa.array(range(1000)) for _ in range(16000)]
full = resident()
del kept
limits.return_memory()
print(full, resident())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full > 150 and left < full - 80
