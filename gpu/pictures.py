"""The images of the checks and of the benchmark, made from the demo's frames."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from demo import fetch

Picture = npt.NDArray[np.integer[Any] | np.floating[Any]]

_QUALITY = 90
_NOISE = 6  # levels; makes the files as large as those of cameras


def list_frames() -> list[Path]:
    """Returns the demo's frames.

    Raises:
        FileNotFoundError: If there are none.
    """
    frames = sorted(fetch.FRAMES.glob("*.jpg"))
    if not frames:
        raise FileNotFoundError(f"there are no frames in {fetch.FRAMES}; `make demo` cuts them out of its video")
    return frames


def copy_frames(count: int, folder: Path) -> Path:
    """Copies frames of the demo, evenly spaced over the clip and several times if needed, unless that was done."""
    if folder.is_dir():
        return folder
    temporary = _begin(folder)
    frames = list_frames()
    for number in range(count):
        middle = (2 * number + 1) * len(frames) // (2 * count)
        shutil.copyfile(frames[middle], temporary / f"{number:05d}.jpg")
    return temporary.rename(folder)


def enlarge_frames(width: int, height: int, count: int, different: int, folder: Path) -> Path:
    """Writes JPEG files of quality 90 from enlarged frames with noise, unless that was done.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        count: Number of files.
        different: Number of different images; the other files are links to these.
        folder: Folder to write.
    """
    if folder.is_dir():
        return folder
    temporary = _begin(folder)
    frames = list_frames()
    jobs = [(frames[number % len(frames)], temporary, number, width, height) for number in range(different)]
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as executor:
        list(executor.map(_enlarge, jobs))
    for number in range(different, count):
        (temporary / f"{number:05d}.jpg").hardlink_to(temporary / f"{number % different:05d}.jpg")
    return temporary.rename(folder)


def link_some(folder: Path, count: int, target: Path) -> Path:
    """Links the first files of a folder into another folder, unless that was done."""
    if target.is_dir():
        return target
    temporary = _begin(target)
    for path in sorted(folder.iterdir())[:count]:
        (temporary / path.name).hardlink_to(path)
    return temporary.rename(target)


def _begin(folder: Path) -> Path:
    """Creates an empty folder, to be renamed when it is complete."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _enlarge(job: tuple[Path, Path, int, int, int]) -> None:
    frame, folder, number, width, height = job
    image = cv2.imread(str(frame))
    assert image is not None
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(number).normal(0, _NOISE, (height, width, 1)).astype(np.float32)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    cv2.imwrite(str(folder / f"{number:05d}.jpg"), noisy, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])


def write_odd_images(folder: Path) -> Path:
    """Writes images of unusual formats and sizes, and files that are damaged or no images, unless that was done."""
    if folder.is_dir():
        return folder
    temporary = _begin(folder)
    data = list_frames()[0].read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    files = {
        "good.jpg": data,
        "cut-in-the-middle.jpg": data[: len(data) // 2],
        "cut-and-ended.jpg": data[: len(data) // 2] + b"\xff\xd9",
        "empty.jpg": b"",
        "page.jpg": b"<html><body>403</body></html>",
        "gray.png": _encode(".png", cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)),
        "alpha.png": _encode(".png", cv2.cvtColor(image, cv2.COLOR_BGR2BGRA)),
        "sixteen-bits.png": _encode(".png", image.astype(np.uint16) * 257),
        "one-pixel.png": _encode(".png", image[:1, :1]),
        "thin.png": _encode(".png", cv2.resize(image, (3000, 3))),
        "tall.png": _encode(".png", cv2.resize(image, (3, 3000))),
        "web.webp": _encode(".webp", image),
        "progressive.jpg": _encode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        "large.jpg": _encode(".jpg", cv2.resize(image, (5000, 3000))),
    }
    for name, content in files.items():
        (temporary / name).write_bytes(content)
    return temporary.rename(folder)


def _encode(ending: str, image: Picture, options: list[int] | None = None) -> bytes:
    done, data = cv2.imencode(ending, image, options or [])
    assert done
    return bytes(data)
