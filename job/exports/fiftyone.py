"""FiftyOne: its own dataset format, and its COCO dataset with a manifest of the images' URIs. No image is copied.

    exports/fiftyone/samples.json
    exports/fiftyone/labels.json
    exports/fiftyone/data.json

The samples have the rank, score and reason of each pick as fields, and the boxes as ``predictions``:

    fiftyone.Dataset.from_dir(dataset_type=fiftyone.types.FiftyOneDataset, dataset_dir="exports/fiftyone")

This is the form without a ``metadata.json``, which the importer of FiftyOne 1.22 reads. The other form holds documents
of the database, which differ from version to version. The boxes alone:

    fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset,
        dataset_dir="exports/fiftyone",
        data_path="data.json",
        label_types="detections",
        label_field="predictions",
    )

FiftyOne itself does not read buckets. If the images are in a bucket, copy them (CORAL_COPY_SELECTED): the samples name
the copies, relative to this folder, and ``data_path`` must be the folder of the copies. Scores become confidences.
Images of unknown size are left out, because FiftyOne's boxes are fractions of the image size.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from job.exports import coco, copies, paths
from job.exports.detected import DetectedImage, Export
from job.exports.format import Format

_SAMPLES, _LABELS, _DATA = "fiftyone/samples.json", "fiftyone/labels.json", "fiftyone/data.json"
_TO_COPIES = f"../../{copies.FOLDER}"  # from the folder of the samples
_DECIMALS = 6


def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    path = paths.assign_copies(image.file_name for image in export.images)
    images = [dataclasses.replace(image, file_name=path[image.file_name]) for image in export.sized_images]
    entries = (coco.make_entry(image.number, image.file_name, image.uri, image.width, image.height) for image in images)
    yield _LABELS, coco.render(export.class_names, export.model, entries, images)
    manifest = {image.file_name: image.uri for image in images}
    yield _DATA, (json.dumps(manifest, ensure_ascii=False, indent=0) + "\n").encode()
    samples = [_make_sample(export, image, path[image.file_name]) for image in export.sized_images]
    yield _SAMPLES, (json.dumps({"samples": samples}, ensure_ascii=False) + "\n").encode()


def _make_sample(export: Export, image: DetectedImage, copy: str) -> dict[str, Any]:
    """A sample with its labels, as FiftyOne's ``Sample.to_dict`` gives it."""
    sides = np.array([image.width, image.height] * 2)
    boxes = zip(image.boxes[:, :2].tolist(), image.box_sizes.tolist(), strict=True)
    detections = [
        {
            "_cls": "Detection",
            "label": export.class_names[class_index],
            "bounding_box": (np.array([*corner, *size]) / sides).round(_DECIMALS).tolist(),
            "confidence": score,
        }
        for (corner, size), score, class_index in zip(boxes, image.scores.tolist(), image.classes.tolist(), strict=True)
    ]
    sample: dict[str, Any] = {
        "filepath": _TO_COPIES + copy if "://" in image.uri else image.uri,
        "tags": [],
        "metadata": {"_cls": "ImageMetadata", "width": image.width, "height": image.height},
        "file_name": image.file_name,
        "predictions": {"_cls": "Detections", "detections": detections},
    }
    pick = export.selected.get(image.file_name)
    if pick is not None:
        fields = {"rank": pick.rank, "score": pick.score, "reason": pick.reason, "distance": pick.distance}
        sample |= {name: value for name, value in fields.items() if value is not None}
    return sample


FORMAT = Format(
    name="fiftyone",
    title="FiftyOne",
    render=_render_files,
    unsized="left out",
    is_xml=False,
    files=(_SAMPLES, _LABELS, _DATA),
    image_files=None,
    summary="Load the folder: `Dataset.from_dir(dataset_type=fiftyone.types.FiftyOneDataset, "
    'dataset_dir="exports/fiftyone")`. Samples have `rank`, `score`, `reason`, `distance` and `predictions`; of images '
    "in a bucket, they name the copies (`CORAL_COPY_SELECTED=1`). `labels.json` and `data.json` are a "
    "`COCODetectionDataset`.",
)
