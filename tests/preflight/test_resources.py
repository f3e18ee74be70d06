"""What a selection will take: the forecast beside a real run, and what is said and refused."""

import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import reduce
from job import forecast, limits, preflight
from job.errors import ServiceUnavailable
from job.forecast import PoolSize
from job.parts import sizes
from job.preflight import resources
from job.preflight.check import Warn
from job.storage.local import LocalFolder
from scripts import room
from tests.conftest import settings

GIB = 1 << 30


def small(**more: object) -> PoolSize:
    return PoolSize(**{"images": 1_000_000, "boxes_per_image": 8.0, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forecast")
    reduce.write_pool(folder / "out", 6000)
    return folder


def test_the_forecast_agrees_with_a_real_run(pool: Path) -> None:
    """The peak and the bytes written of a run on 6,000 images, within a factor of 1.5."""
    output = LocalFolder(str(pool / "out"))
    assert sizes.count_images(output) == 6000
    expected = forecast.forecast(resources.estimate(settings(n_samples=50, exports=()), output, 6000))
    used = reduce.measure_select(pool, 6000, 50)
    assert expected.memory_bytes / 1.5 < used["peak_mb"] * 1e6 < 1.5 * expected.memory_bytes
    assert expected.cpu_seconds / 3 < used["cpu_seconds"] < 3 * expected.cpu_seconds


def test_the_largest_part_says_how_many_boxes_there_are(pool: Path) -> None:
    measured = sizes.measure_largest(LocalFolder(str(pool / "out")))
    assert measured is not None
    assert (measured.images, measured.classes, measured.width, measured.num_ahead) == (512, 80, 256, 4)
    assert 7.5 < measured.boxes_per_image < 8.5  # of a Poisson distribution with mean 8


def test_damaged_parts_and_listings_are_left_to_those_who_read_them(pool: Path, tmp_path: Path) -> None:
    shutil.copytree(pool / "out" / "parts", tmp_path / "parts")
    for file in tmp_path.glob("parts/*.parquet"):
        file.write_bytes(b"PAR1 nothing")
    output = LocalFolder(str(tmp_path))
    assert sizes.count_images(output) == 0 and sizes.measure_largest(output) is None


def test_the_need_grows_with_the_pool_and_what_is_asked_of_it() -> None:
    base, twice = forecast.forecast(small()), forecast.forecast(small(images=2_000_000))
    more = forecast.forecast(small(images=3_000_000))
    assert more.memory_bytes - twice.memory_bytes == pytest.approx(twice.memory_bytes - base.memory_bytes)
    assert base.memory_bytes < 2e9  # a million images of the default model
    assert base.temporary_bytes >= 1_000_000 * 256 * 4
    assert forecast.forecast(small(width=2048)).temporary_bytes > 7 * base.temporary_bytes
    assert forecast.forecast(small(trains=True)).temporary_bytes > base.temporary_bytes + 3e9
    assert forecast.forecast(small(uses_objects=True, boxes_per_image=30.0)).temporary_bytes > 30_000_000 * 128
    assert forecast.forecast(small(boxes_per_image=100.0)).memory_bytes > 5e9
    assert forecast.forecast(small(centers=10_000)).cpu_seconds > 2 * base.cpu_seconds


def find(pool: Path, monkeypatch: pytest.MonkeyPatch, memory: float, free: float, *, in_memory: bool = False) -> object:
    monkeypatch.setattr(limits, "memory_limit", lambda: int(memory))
    monkeypatch.setattr(limits, "is_in_memory", lambda folder: in_memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=int(free)))
    (finding,) = resources.find(settings(), LocalFolder(str(pool / "out")), 1_000_000)
    return finding


def test_enough_is_said_and_too_little_is_refused(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = forecast.forecast(resources.estimate(settings(), LocalFolder(str(pool / "out")), 1_000_000))
    enough = find(pool, monkeypatch, 16 * GIB, 1e11)
    assert type(enough) is str and enough.startswith("the selection among 1000000 images needs about ")
    assert "(there are 17.2 GB)" in enough and "100 GB are free" in enough
    little = find(pool, monkeypatch, need.memory_bytes * 0.9, 1e11)
    assert isinstance(little, ServiceUnavailable) and little.exit_code == 69
    assert "raise the memory of the container to 2 GiB (--memory, or resources.limits.memory)" in str(little)
    assert isinstance(find(pool, monkeypatch, need.memory_bytes * 1.1, 1e11), Warn)
    full = find(pool, monkeypatch, 16 * GIB, need.temporary_bytes * 0.9)
    assert isinstance(full, ServiceUnavailable) and f"in {tempfile.gettempdir()}, or set TMPDIR to another" in str(full)


def test_a_temporary_folder_in_memory_counts_as_memory(pool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = forecast.forecast(resources.estimate(settings(), LocalFolder(str(pool / "out")), 1_000_000))
    memory = need.memory_bytes + need.temporary_bytes / 2
    assert not isinstance(find(pool, monkeypatch, memory, 1e11), ServiceUnavailable)
    refused = find(pool, monkeypatch, memory, 1e11, in_memory=True)
    assert isinstance(refused, ServiceUnavailable)
    assert f"or set TMPDIR to a folder on a disk, since {tempfile.gettempdir()} is in memory" in str(refused)


def test_a_tmpfs_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mounts").write_text("/dev/sda / ext4 rw 0 0\ntmpfs /my\\040tmp tmpfs rw 0 0\n")
    assert limits.is_in_memory(Path("/my tmp/a"), tmp_path) and not limits.is_in_memory(Path("/my"), tmp_path)
    assert not limits.is_in_memory(Path("/my tmp"), tmp_path / "none")


def test_a_selection_that_cannot_fit_ends_with_69_before_anything_is_read(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "memory_limit", lambda: 100 << 20)
    with pytest.raises(ServiceUnavailable, match="raise the memory of the container to 1 GiB"):
        preflight.verify_selection(settings(), LocalFolder(str(pool / "out")), 6000)
    preflight.verify_selection(settings(), LocalFolder(str(pool / "out")), 0)


def test_the_manifests_and_what_they_hold() -> None:
    """The memory as in the manifests. What is said to fit does, and a tenth more does not."""
    places = room.list_places()
    assert [(name, memory // (1 << 20)) for name, memory, _, _ in places] == [
        *(("Kubernetes", 16384), ("AWS Batch", 14000), ("Google Cloud Batch", 28000))
    ]
    for _, memory, space, in_memory in places:
        images = forecast.count_images_that_fit(memory, space, temporary_in_memory=in_memory)
        for share, fits in ((1, True), (1.1, False)):
            need = forecast.forecast(PoolSize(int(images * share)))
            needed = need.memory_bytes + need.temporary_bytes * in_memory
            assert (1.3 * needed <= memory and 1.3 * need.temporary_bytes <= space) == fits
