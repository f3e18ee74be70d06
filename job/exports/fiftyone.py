"""FiftyOne: its COCO dataset, with a manifest of the images' URIs, so that no image is copied.

    exports/fiftyone/labels.json
    exports/fiftyone/data.json

    fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset,
        dataset_dir="exports/fiftyone",
        data_path="data.json",
        label_types="detections",
        label_field="predictions",
    )

FiftyOne itself does not read buckets. If the images are in a bucket, copy them (CORAL_COPY_SELECTED) and pass the
folder of the copies as ``data_path``: the file names here are those of the copies. Scores become confidences. Images of
unknown size are left out, because FiftyOne's boxes are fractions of the image size.
"""

import dataclasses
import json
from collections.abc import Iterator

from job.exports import coco, paths
from job.exports.detected import Export
from job.exports.format import Format

_LABELS, _DATA = "fiftyone/labels.json", "fiftyone/data.json"


def _render_files(export: Export) -> Iterator[tuple[str, bytes]]:
    path = paths.assign_copies(image.file_name for image in export.images)
    images = [dataclasses.replace(image, file_name=path[image.file_name]) for image in export.sized_images]
    entries = (coco.make_entry(image.number, image.file_name, image.uri, image.width, image.height) for image in images)
    yield _LABELS, coco.render(export.class_names, export.model, entries, images)
    manifest = {image.file_name: image.uri for image in images}
    yield _DATA, (json.dumps(manifest, ensure_ascii=False, indent=0) + "\n").encode()


FORMAT = Format(
    name="fiftyone",
    title="FiftyOne",
    render=_render_files,
    unsized="left out",
    is_xml=False,
    files=(_LABELS, _DATA),
    image_files=None,
    summary="Load the folder: `Dataset.from_dir(dataset_type=fiftyone.types.COCODetectionDataset, "
    'dataset_dir="exports/fiftyone", data_path="data.json", label_types="detections")`.',
)
