"""Sizes from headers: those of the decoded images, and of long JPEGs without their pixels."""

import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from job import images
from job.images import ImageError
from job.inputs import headers
from job.storage import Source, open_folder, open_source
from job.storage.local import LocalFolder
from job.video import Sampling
from tests.conftest import S3

NOISE = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)


def encode(form: str, orientation: int = 1, **options: Any) -> bytes:
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    PIL.Image.fromarray(NOISE).save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


FILES = {
    "long.jpg": encode("JPEG", quality=100),
    "turned.jpg": encode("JPEG", 6, quality=100),
    "short.jpg": encode("JPEG", 8, quality=5),
    "profile.jpg": encode("JPEG", 6, quality=100, icc_profile=bytes(300_000)),
    "progressive.jpg": encode("JPEG", 6, quality=100, progressive=True),
    "a.png": encode("PNG", 6),
    "a.webp": encode("WEBP", 6, lossless=True),
    "a.tiff": encode("TIFF", 6),
    "a.avif": encode("AVIF", 6, quality=95),
    "a.bmp": encode("BMP"),
}


class Counting(LocalFolder):
    """A folder that counts the bytes that are read from it."""

    num_bytes = 0

    def read(self, key: str, etag: str | None = None) -> bytes:
        data = super().read(key, etag)
        self.num_bytes += len(data)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        self.num_bytes += len(data)
        return data


@pytest.mark.parametrize("name", FILES)
def test_the_size_is_that_of_the_decoded_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    folder = Counting(str(tmp_path))
    size = headers.read_size(folder, name)
    height, width, _ = images.decode(FILES[name]).shape
    assert (size.width, size.height) == (width, height)
    if name != "a.tiff":  # Pillow turns its size itself
        assert size.is_turned == ((width, height) == (300, 500))
    if name in ("long.jpg", "turned.jpg", "progressive.jpg"):
        assert folder.num_bytes == 1 << 17 < len(FILES[name])
    etag = next(iter(folder.list())).etag
    assert headers.read_size(folder, name, etag) == size


def test_of_lists_and_buckets(tmp_path: Path, seaweedfs: S3) -> None:
    folder = open_folder(seaweedfs.uri("headers"))
    names = ("turned.jpg", "short.jpg", "empty.jpg")
    for name in names:
        folder.write(name, FILES.get(name, b""))
    (tmp_path / "list.txt").write_text("".join(f"{folder.uri}/{name}\n" for name in names))
    listed = open_source(str(tmp_path / "list.txt"), threading.Event(), Sampling("all"))
    sources: list[tuple[Source, str]] = [(folder, ""), (listed, f"{folder.uri}/")]
    for source, prefix in sources:
        for name in names[:2]:
            assert headers.read_size(source, prefix + name) == headers.Size(300, 500, is_turned=True)
        with pytest.raises(ImageError, match="empty"):
            headers.read_size(source, prefix + "empty.jpg")


def test_why_a_size_is_unknown(tmp_path: Path) -> None:
    folder = LocalFolder(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        headers.read_size(folder, "none.jpg")
    for data, says in ((b"", "empty"), (b"\xff\xd8" + bytes(200_000), "not an image that can be read")):
        folder.write("a.jpg", data)
        with pytest.raises(ImageError, match=says):
            headers.read_size(folder, "a.jpg")
