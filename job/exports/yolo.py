"""YOLO's format, as Ultralytics reads it.

    exports/yolo/data.yaml
    exports/yolo/labels/<file name of the image, with its extension replaced>.txt
    exports/yolo/train.txt      ./images/<path> of each image
    exports/yolo/images.jsonl   image, label, file_name and uri of each

Ultralytics finds the labels of an image by its path, with the last ``images`` folder in it replaced by ``labels`` and
the extension by ``.txt``. So images go to ``images/``, or are linked there, by the paths in train.txt. These are file
names, but longer where two differ in their extension alone, without folders called ``images``, and digests of names
that no file should have.

A line is class index, center, width and height, as shares of the image's; there is no place for the score. An image
without detections has an empty file, which makes it a negative example. Images of unknown size are left out.
"""

import json
from collections.abc import Iterator

import yaml

from job.exports import paths
from job.exports.detected import DetectedImage, Export

# labelformat's writer lets a.jpg and a.png share a file, and follows `..` out of its folder.


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The configuration, the lists, and the labels of each image."""
    path = paths.of_labels((each.name for each in export.sized), ".txt", without="images")
    # Ultralytics insists on `val`, and nothing of the picks is held out.
    content = {"train": "train.txt", "val": "train.txt", "names": dict(enumerate(export.class_names))}
    yield "yolo/data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
    listed = []
    for image in export.sized:
        label = path[image.name]
        there = f"images/{label.removesuffix('.txt')}{paths.extension(image.name)}"
        listed.append({"image": there, "label": f"labels/{label}", "file_name": image.name, "uri": image.uri})
        yield f"yolo/labels/{label}", _lines(image)
    yield "yolo/train.txt", "".join(f"./{each['image']}\n" for each in listed).encode()
    yield "yolo/images.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in listed).encode()


def _lines(image: DetectedImage) -> bytes:
    whole = (image.width, image.height)
    centers, sizes = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2 / whole, image.sizes / whole
    rows = zip(image.classes.tolist(), centers.tolist(), sizes.tolist(), strict=True)
    # With the usual six decimals boxes of large images are off by hundredths of a pixel.
    return "".join(
        f"{kind} {' '.join(f'{value:.8f}' for value in (*center, *size))}\n" for kind, center, size in rows
    ).encode()
