"""YOLO's format, as Ultralytics reads it.

    exports/yolo/data.yaml
    exports/yolo/labels/<file name of the image, with its extension replaced>.txt
    exports/yolo/train.txt      ./images/<path> of each image
    exports/yolo/images.jsonl   image, label, file_name and uri of each image

Ultralytics finds the labels of an image by its path: it replaces the last folder ``images`` by ``labels`` and the
extension by ``.txt``. So copy or link the images into ``images/``, with the paths in train.txt. These paths are file
names, with three exceptions: they are longer if two names differ in their extension alone, they have no folders called
``images``, and they are digests of names that no file should have.

A line has the class index, and the center, width and height as fractions of the image size. The format has no place for
the score. An image without detections has an empty file, which makes it a negative example. Images of unknown size are
left out.
"""

import json
from collections.abc import Iterator

import yaml

from job.exports import paths
from job.exports.detected import DetectedImage, Export
from job.exports.format import Format, ImageFiles

_DATA, _TRAIN, _IMAGES = "yolo/data.yaml", "yolo/train.txt", "yolo/images.jsonl"
_IMAGE_FILES = ImageFiles("yolo/labels/", ".txt")


# labelformat's writer gives a.jpg and a.png the same file, and follows `..` out of its folder.
def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    images, suffix = export.sized_images, _IMAGE_FILES.suffix
    path = paths.assign_labels((image.file_name for image in images), suffix, without="images")
    # Ultralytics insists on `val`, and no pick is held out.
    content = {"train": "train.txt", "val": "train.txt", "names": dict(enumerate(export.class_names))}
    yield _DATA, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
    entries = []
    for image in images:
        label = path[image.file_name]
        copy = f"images/{label.removesuffix(suffix)}{paths.find_extension(image.file_name)}"
        entries.append({"image": copy, "label": f"labels/{label}", "file_name": image.file_name, "uri": image.uri})
        yield _IMAGE_FILES.folder + label, _lines(image)
    yield _TRAIN, "".join(f"./{entry['image']}\n" for entry in entries).encode()
    yield _IMAGES, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries).encode()


def _lines(image: DetectedImage) -> bytes:
    image_size = (image.width, image.height)
    centers = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2 / image_size
    sizes = image.box_sizes / image_size
    rows = zip(image.classes.tolist(), centers.tolist(), sizes.tolist(), strict=True)
    # With the usual six decimals, boxes of large images are off by hundredths of a pixel.
    return "".join(
        f"{class_index} {' '.join(f'{value:.8f}' for value in (*center, *size))}\n"
        for class_index, center, size in rows
    ).encode()


FORMAT = Format(
    name="yolo",
    title="Ultralytics YOLO",
    render=_render_files,
    unsized="left out",
    is_xml=False,
    files=(_DATA, _TRAIN, _IMAGES),
    image_files=_IMAGE_FILES,
    summary="Put the images, or a link to them, at `yolo/images`; `yolo/images.jsonl` says where each image is.",
)
