"""YOLO labels with confidences: a folder with one text file per image, as Ultralytics writes with save_txt, save_conf.

    labels/<stem>.txt   a line per box: class x y width height confidence

Class indices count from 0 in CORAL_CLASSES. Centre and size of a box are fractions of the image's width and height,
which are read from the images in CORAL_INPUT. Images without a file are images without detections.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from job.errors import SettingsError, Stopped
from job.external.batch import Batch, Floats, Image, Reading, check_batch, iter_chunks
from job.external.input_images import InputImages
from job.external.layouts import CENTER_SIZE, to_corners
from job.external.problems import Problems, shorten
from job.names import quantify
from job.parts import Row
from job.prefetch import prefetch
from job.stopping import MESSAGE
from job.storage import Storage, read_required

_SUFFIX, _FOLDER, _CLASSES = ".txt", "labels/", "classes.txt"
_MAX_CONCURRENT_READS = 32
_NUM_VALUES = 6
_MAX_FRACTION = 1.05  # a box may reach a little over the border
_LAYOUT = "class x y width height confidence"


def list_files(folder: Storage) -> list[str]:
    """Lists the label files in a folder, or in its folder ``labels``, sorted bytewise."""
    keys = {entry.key for entry in folder.list(keep=lambda key: key.endswith(_SUFFIX))}
    labels = {key for key in keys if key.startswith(_FOLDER)} or keys
    return sorted((key for key in labels if key.rpartition("/")[2] != _CLASSES), key=str.encode)


def read(
    folder: Storage,
    keys: list[str],
    classes: tuple[str, ...] | None,
    images: InputImages | None,
    stop: threading.Event,
    update_digest: Callable[[bytes], None],
) -> Reading:
    """Reads a folder of labels.

    Args:
        folder: The folder.
        keys: The label files in it.
        classes: CORAL_CLASSES, by class index.
        images: The images in CORAL_INPUT.
        stop: Ends the reading when it is set.
        update_digest: Called with the name, the digest and the image's size of each file, in the order of the images.

    Raises:
        SettingsError: If a file is invalid, no file belongs to an image, or the classes are not known.
        JobError: If a file cannot be read.
    """
    if classes is None or images is None:
        raise SettingsError(
            f"CORAL_PREDICTIONS, {folder.uri}: these are YOLO labels, which do not name their classes. Set "
            "CORAL_CLASSES to the names of the classes, in the order of the model."
        )
    key_of, warnings = _match(folder, keys, images)
    reader = _Reader(folder, key_of, classes, images, stop)
    return Reading(classes, CENTER_SIZE, reader.read_batches(update_digest), reader.failures, warnings)


def _match(folder: Storage, keys: list[str], images: InputImages) -> tuple[dict[str, str], list[str]]:
    """The label file of each image that has one, and warnings about the others."""
    problems = Problems()
    key_of: dict[str, str] = {}
    unmatched: list[str] = []
    warnings: list[str] = []
    stem_of = {key: key.removeprefix(_FOLDER).removesuffix(_SUFFIX) for key in keys}
    meant_by, cause = images.match(f"CORAL_PREDICTIONS={folder.uri!r}", stem_of.values(), warnings)
    for key in keys:
        meant = meant_by[stem_of[key]]
        if len(meant) > 1:
            problems.add(folder.uri, f"{shorten(key)} may mean {shorten(meant[0])} or {shorten(meant[1])}. Rename one.")
        elif not meant:
            unmatched.append(key)
        elif meant[0] in key_of:
            problems.add(folder.uri, f"{shorten(key_of[meant[0]])} and {shorten(key)} mean one image. Remove one.")
        else:
            key_of[meant[0]] = key
    problems.raise_if_any()
    if unmatched:
        warnings.append(
            f"{len(unmatched)} of {len(keys)} YOLO labels, such as {shorten(unmatched[0])}, belong to no image in "
            f"CORAL_INPUT and are left out. {cause}".rstrip()
        )
    return key_of, warnings


class _Reader:
    """Reads label files and the sizes of their images.

    Attributes:
        failures: Rows of the images whose sizes could not be read.
    """

    def __init__(
        self,
        folder: Storage,
        key_of: dict[str, str],
        classes: tuple[str, ...],
        images: InputImages,
        stop: threading.Event,
    ) -> None:
        self.failures: list[Row] = []
        self._folder, self._key_of, self._images = folder, key_of, images
        self._classes, self._stop = classes, stop

    def read_batches(self, update_digest: Callable[[bytes], None]) -> Iterator[Batch]:
        """Yields the images of CORAL_INPUT with their boxes."""
        with ThreadPoolExecutor(_MAX_CONCURRENT_READS, thread_name_prefix="labels") as executor:
            names = self._images.file_names
            for files in iter_chunks(prefetch(executor, self._read, names, ahead=4 * _MAX_CONCURRENT_READS)):
                labels = []
                for name, data, size in files:
                    described = self._images.describe_size(size)
                    update_digest(f"{hashlib.sha256(data).hexdigest()}  {described}  {name}\n".encode())
                    if isinstance(size, str):
                        self.failures.append(Row(file_name=name, etag="", byte_size=0, status="failed", error=size))
                    else:
                        labels.append((name, data, size))
                yield self._make_batch(labels)

    def _read(self, name: str) -> tuple[str, bytes, tuple[int, int] | str | None]:
        """An image's label file, and its size if there are boxes, or the reason why that cannot be read."""
        if self._stop.is_set():
            raise Stopped(MESSAGE)
        key = self._key_of.get(name)
        data = b"" if key is None else read_required(self._folder, key)
        return name, data, self._images.read_size(name) if data.strip() else None

    def _make_batch(self, labels: list[tuple[str, bytes, tuple[int, int] | None]]) -> Batch:
        problems = Problems()
        images, tables = [], []
        for name, data, size in labels:
            uri = f"{self._folder.uri}/{self._key_of.get(name, '')}"
            width, height = size or (None, None)
            images.append(Image(uri, name, width, height))
            tables.append(self._parse(data, uri, problems) * [1, *(size or (1, 1)) * 2, 1])
        problems.raise_if_any()
        table = np.concatenate([np.empty((0, _NUM_VALUES)), *tables])
        batch = Batch(
            images=images,
            counts=np.array([len(rows) for rows in tables], np.int64),
            boxes=to_corners(table[:, 1:5], CENTER_SIZE),
            scores=table[:, 5],
            classes=table[:, 0].astype(np.int64),
            probabilities=None,
        )
        check_batch(batch, f"{_LAYOUT}, as fractions of the image,", len(self._classes))
        return batch

    def _parse(self, data: bytes, uri: str, problems: Problems) -> Floats:
        """(boxes, 6) class, x, y, width, height, confidence."""
        rows = []
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            values = line.split()
            if not values:
                continue
            if (problem := self._find_problem(values)) is not None:
                problems.add(uri, f"line {number} of these YOLO labels has {problem}")
                break
            rows.append([float(value) for value in values])
        return np.array(rows, np.float64).reshape(-1, _NUM_VALUES)

    def _find_problem(self, values: list[str]) -> str | None:
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            return f"the values {shorten(' '.join(values))}. Give six numbers: {_LAYOUT}."
        if len(numbers) == _NUM_VALUES - 1:
            return "no confidence. Predict with save_txt=True and save_conf=True; labels without scores cannot be used."
        if len(numbers) != _NUM_VALUES:
            return f"{quantify(len(numbers), 'value')}, as for outlines or keypoints. Give the six of a box: {_LAYOUT}."
        if not (math.isfinite(numbers[0]) and numbers[0] in range(len(self._classes))):
            known = quantify(len(self._classes), "name")
            return f"the class {values[0]}, but CORAL_CLASSES has {known}. List every class."
        if not all(-0.05 <= number <= _MAX_FRACTION for number in numbers[1:5]):
            return f"the box {shorten(' '.join(values[1:5]))}. Give it as fractions of the image's width and height."
        return None
