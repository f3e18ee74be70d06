"""The files for tasks of videos, read as CVAT's import and its interpolation define them."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from job import exports
from job.parts.boxes import Detections
from job.video import name_frame, parse_frame
from tests.exports.test_paths import tree
from tests.exports.test_writing import CLASSES, Found, filled, parsed, uri_of

LAST = 300
DRIVE = [name_frame("day 1/drive.MP4", number, LAST) for number in (20, 50, 140, LAST)]
SHORT = [name_frame("short.mkv", 7, 9)]


def write(folder: Path) -> tuple[dict[str, bytes], dict[str, Detections]]:
    """Exports frames of two videos and an image; returns the files below exports/, and what was detected."""
    names = [*DRIVE, *SHORT, "still.png"]
    output, pool, found = filled(folder, names)
    frames = [parse_frame(name) for name in pool.file_names]
    columns = {
        "video": pa.array([frame and frame.video for frame in frames], pa.string()),
        "frame": pa.array([frame and frame.number for frame in frames], pa.int64()),
        "time_s": pa.array([frame and frame.number / 25 for frame in frames], pa.float64()),
    }
    exports.write(output, replace(pool, frames=columns), names[::-1], uri_of, found, ["cvat"])
    return tree(folder / "exports"), found


def read_as_cvat(root: ET.Element) -> dict[int, list[tuple[str, float | None, list[float]]]]:
    """What a task with the start, the stop and the step in `meta` shows, by the number of the frame in the video.

    A frame that the task does not have is an error, as in `rel_frame_id` of CVAT. A keyframe lasts until the next one.
    """
    start, stop = (int(root.findtext(f"meta/task/{tag}", "")) for tag in ("start_frame", "stop_frame"))
    step = int(root.findtext("meta/task/frame_filter", "").removeprefix("step="))
    frames = range(start, stop + 1, step)
    assert int(root.findtext("meta/task/size", "")) == len(frames)
    shown: dict[int, list[tuple[str, float | None, list[float]]]] = {frame: [] for frame in frames}
    for track in root.findall("track"):
        keys = {int(box.attrib["frame"]): box for box in track.findall("box")}
        assert all(box.attrib["keyframe"] == "1" and frame in frames for frame, box in keys.items())
        for frame in frames:
            before = [key for key in sorted(keys) if key <= frame]
            if before and keys[before[-1]].attrib["outside"] == "0":
                box = keys[before[-1]]
                score = float(box.findtext("attribute[@name='score']", ""))
                corners = [float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr")]
                shown[frame].append((track.attrib["label"], score, corners))
    return shown


def test_a_task_of_the_video_shows_the_boxes_on_the_picks_alone(tmp_path: Path) -> None:
    files, found = write(tmp_path / "out")
    assert set(files) == {"cvat.xml", "cvat_labels.json", "cvat_videos/day 1/drive.xml", "cvat_videos/short.xml"}
    root = parsed(files["cvat_videos/day 1/drive.xml"])
    task = {tag: root.findtext(f"meta/task/{tag}") for tag in ("mode", "start_frame", "stop_frame", "frame_filter")}
    assert task == {"mode": "interpolation", "start_frame": "20", "stop_frame": "300", "frame_filter": "step=10"}
    assert [label.findtext("name") for label in root.findall("meta/task/labels/label")] == list(CLASSES)
    shown = read_as_cvat(root)
    back: Found = {name: shown.pop(int(name.split("-")[1])) for name in DRIVE}
    for name, boxes in back.items():
        assert [label for label, _, _ in boxes] == [CLASSES[kind] for kind in found[name].classes]
        assert [score for _, score, _ in boxes] == pytest.approx(found[name].scores.tolist(), abs=1e-6)
        np.testing.assert_allclose([box for _, _, box in boxes], found[name].boxes, atol=0.01)
    assert len(shown) == 25 and not any(shown.values())


def test_a_video_with_one_pick_and_the_images_of_cvat_as_before(tmp_path: Path) -> None:
    files, found = write(tmp_path / "out")
    root = parsed(files["cvat_videos/short.xml"])
    assert root.findtext("meta/task/frame_filter") == "step=1"
    (frame,) = read_as_cvat(root).items()
    assert frame[0] == 7 and len(frame[1]) == len(found[SHORT[0]].boxes)
    assert len(parsed(files["cvat.xml"]).findall("image")) == 6
