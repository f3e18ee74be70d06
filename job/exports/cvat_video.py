"""CVAT for video 1.1: the picks of one video, to be uploaded as the annotations of a task that has the video itself.

    exports/cvat_videos/<file name of the video, with its extension replaced>.xml

The picks are some frames of the task whose start frame, stop frame and frame step are in ``meta``. The step is the
largest one at which the task has all of them. CVAT numbers frames as they are in the video, whatever the step, and
refuses numbers that the task does not have.

Each box is a track that begins at its frame and ends before the next frame of the task, as CVAT itself writes shapes of
one frame. After the last frame there is nothing to end.
"""

import math
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from itertools import count

from job.exports import paths
from job.exports.detected import DetectedImage, Export
from job.exports.format import ImageFiles
from job.exports.xml import add_child, can_represent, replace_forbidden, serialize

FILES = ImageFiles("cvat_videos/", ".xml", "video")


def render(export: Export, make_meta: Callable[[Mapping[str, object]], ET.Element]) -> Iterator[tuple[str, bytes]]:
    """Yields the path below exports/ and the content of the file of each video.

    Args:
        export: The picks.
        make_meta: Makes the element ``meta`` from what describes the task.
    """
    of_video: dict[str, dict[int, DetectedImage]] = {}
    for image in export.sized_images:
        if image.frame and can_represent(image.file_name):
            of_video.setdefault(image.frame.video, {})[image.frame.number] = image
    path = paths.assign_labels(of_video, FILES.suffix)
    for video, images in sorted(of_video.items(), key=lambda item: item[0].encode()):
        yield FILES.folder + path[video], serialize(_annotations(video, images, export.class_names, make_meta))


def _annotations(
    video: str,
    images: dict[int, DetectedImage],
    class_names: tuple[str, ...],
    make_meta: Callable[[Mapping[str, object]], ET.Element],
) -> ET.Element:
    start, stop = min(images), max(images)
    step = math.gcd(*(number - start for number in images)) or 1
    root = ET.Element("annotations")
    add_child(root, "version", "1.1")
    size = (stop - start) // step + 1
    frames = {"start_frame": start, "stop_frame": stop, "frame_filter": f"step={step}"}
    meta = make_meta({"size": size, "mode": "interpolation", **frames})
    task, first = meta[0], images[start]
    original = add_child(task, "original_size")
    add_child(original, "width", first.width)
    add_child(original, "height", first.height)
    add_child(task, "source", video)
    root.append(meta)
    track_numbers = count()
    for number, image in sorted(images.items()):
        columns = (image.boxes, image.scores, image.classes)
        for box, score, class_index in zip(*(column.tolist() for column in columns), strict=True):
            label = replace_forbidden(class_names[class_index])
            track = ET.SubElement(root, "track", {"id": str(next(track_numbers)), "label": label, "source": "auto"})
            _add_box(track, number, box, score, is_outside=False)
            if number < stop:
                _add_box(track, number + step, box, score, is_outside=True)
    return root


def _add_box(track: ET.Element, frame: int, box: list[float], score: float, *, is_outside: bool) -> None:
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(str, box), strict=True))
    state = {"frame": str(frame), "keyframe": "1", "outside": str(int(is_outside)), "occluded": "0"}
    element = ET.SubElement(track, "box", {**state, **corners, "z_order": "0"})
    add_child(element, "attribute", score).set("name", "score")
