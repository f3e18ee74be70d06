"""Measures what a frame of a video takes before the detector sees its pixels, beside PyAV, OpenCV and ffmpeg alone.

`python -m benchmarks.video [--json FILE]`: frames of the demo are enlarged to 1280 x 720 and 1920 x 1080, get noise,
and are encoded as H.264. Each way reads all frames, in turns; a figure is the median of the CPU time of all threads, by
frame. That of ffmpeg is the program's own and that of this process, which reads the pixels from a pipe. Then processes
of their own read a clip and one of five times its length, of which the peak memory is told.
"""

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import imageio_ffmpeg
import numpy as np
from tabulate import tabulate

from demo import fetch
from job import images
from job.storage import Listing, open_source
from job.video import Sampling
from job.video.clip import Clip

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
NUM_FRAMES, TURNS = 40, 3
NOISE_LEVELS, QUALITY = 5, 23
LONGER = 5
_MEMORY = "from benchmarks import video; import sys; print(video.read_and_measure(sys.argv[1]))"


def write_clip(path: Path, size: tuple[int, int], count: int) -> None:
    """Writes frames of the demo, enlarged and with noise, as a video of 25 frames per second."""
    rng = np.random.default_rng(0)
    frames = sorted(fetch.FRAMES.iterdir())
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"crf": str(QUALITY), "preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(count):
            image: Any = cv2.imread(str(frames[number % len(frames)]))
            large = cv2.resize(image, size, interpolation=cv2.INTER_LANCZOS4)
            noisy = np.clip(large + rng.normal(0, NOISE_LEVELS, (*large.shape[:2], 1)), 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(noisy, format="bgr24")))
        file.mux(stream.encode(None))


def read_as_the_job(path: Path) -> int:
    """Lists the frames of a folder with one video, and reads and decodes each as the map step does."""
    source = open_source(str(path.parent), threading.Event(), Sampling("all"))
    entries = Listing.from_entries(source.list())
    return sum(images.decode(source.read(entry.key, entry.etag)).shape[2] == 3 for entry in entries)


def read_as_png(path: Path) -> int:
    """Reads the frames as `read_as_the_job` does, but as PNG files."""
    source = open_source(str(path.parent), threading.Event(), Sampling("all")).to_keep()
    entries = Listing.from_entries(source.list())
    return sum(images.decode(source.read(entry.key, entry.etag)).shape[2] == 3 for entry in entries)


def read_by_pyav(path: Path) -> int:
    """Decodes with PyAV to BGR pixels."""
    with av.open(str(path)) as file:
        file.streams.video[0].thread_type = "AUTO"
        return sum(frame.to_ndarray(format="bgr24").shape[2] == 3 for frame in file.decode(video=0))


def read_by_opencv(path: Path) -> int:
    """Decodes with OpenCV to BGR pixels."""
    reader, count = cv2.VideoCapture(str(path)), 0
    while reader.read()[0]:
        count += 1
    return count


def read_by_ffmpeg(path: Path) -> int:
    """Decodes with the program ffmpeg to BGR pixels in a pipe."""
    with av.open(str(path)) as file:
        frame_bytes = 3 * file.streams.video[0].width * file.streams.video[0].height
    arguments = ["-v", "error", "-i", str(path), "-pix_fmt", "bgr24", "-f", "rawvideo", "-"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if (pixels := process.stdout) is None:
            raise RuntimeError("ffmpeg has no pipe")
        return sum(1 for _ in iter(lambda: pixels.read(frame_bytes), b""))


def measure_cpu() -> float:
    """CPU time in seconds of this process and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


WAYS: dict[str, Callable[[Path], int]] = {
    "coralpick": read_as_the_job,
    "coralpick, by PNG": read_as_png,
    "PyAV": read_by_pyav,
    "OpenCV": read_by_opencv,
    "ffmpeg": read_by_ffmpeg,
}


def measure(path: Path, count: int, turns: int) -> dict[str, float]:
    """Measures the median CPU time of all threads by frame, in milliseconds."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(turns):
        for name, read in WAYS.items():
            start = measure_cpu()
            if read(path) != count:
                raise RuntimeError(f"{name} did not read {count} frames")
            seconds[name].append(measure_cpu() - start)
    return {name: 1e3 * statistics.median(values) / count for name, values in seconds.items()}


def read_and_measure(path: str) -> int:
    """Reads all frames of a clip as the job does, and returns the peak memory of this process in bytes.

    `ru_maxrss` would be that of the parent, whose pages a child has until it starts another program.
    """
    read_as_the_job(Path(path))
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


def measure_memory(path: Path) -> int:
    """Measures the peak memory of a process that reads a clip."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _MEMORY, str(path)], check=True, stdout=subprocess.PIPE
    )
    return int(done.stdout.split()[-1])


def count_listed_bytes(path: Path) -> tuple[int, int]:
    """Counts the bytes of a clip that are read for the times of its frames, and those of the file."""
    data = path.read_bytes()
    count = 0

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal count
            found = super().read(size)
            count += len(found)
            return found

    Clip(Counted(data))
    return count, len(data)


def main() -> None:
    """Prints the figures, and writes them to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--frames", type=int, default=NUM_FRAMES, help="frames of each clip")
    parser.add_argument("--turns", type=int, default=TURNS, help="measurements of each way")
    given = parser.parse_args()
    fetch.fetch()
    figures: dict[str, Any] = {"ms": {}, "peak_bytes": {}, "listed_bytes": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            path = Path(folder) / name / "clip.mp4"
            path.parent.mkdir()
            write_clip(path, size, given.frames)
            figures["ms"][name] = measure(path, given.frames, given.turns)
            figures["listed_bytes"][name] = count_listed_bytes(path)
        for factor in (1, LONGER):
            path = Path(folder) / f"{factor} times" / "clip.mp4"
            path.parent.mkdir()
            write_clip(path, SIZES["720p"], factor * given.frames)
            figures["peak_bytes"][factor * given.frames] = measure_memory(path)
    rows = [[name, *(figures["ms"][size][name] for size in SIZES)] for name in WAYS]
    print(tabulate(rows, ["CPU ms by frame", *SIZES], floatfmt=".1f"))
    for size, (count, total) in figures["listed_bytes"].items():
        print(f"{size}: {count:,} of {total:,} bytes are read for the times of the frames")
    for frames, peak in figures["peak_bytes"].items():
        print(f"{frames} frames of 720p: peak memory {peak / 1e6:.0f} MB")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
