"""FiftyOne: its COCO dataset, with a manifest that says where the images are, so that none is copied.

    exports/fiftyone/labels.json
    exports/fiftyone/data.json

    fiftyone.Dataset.from_dir(
        dataset_type=fiftyone.types.COCODetectionDataset,
        dataset_dir="exports/fiftyone",
        data_path="data.json",
        label_types="detections",
        label_field="predictions",
    )

FiftyOne itself reads no buckets. Where the images are in one, copy them (CORAL_COPY_SELECTED) and give the folder of
the copies for ``data_path``: file names here are theirs. Scores become confidences. Images of unknown size are left
out, since FiftyOne's boxes are shares of it.
"""

import dataclasses
import json
from collections.abc import Iterator

from job.exports import coco, paths
from job.exports.detected import Export


def files(export: Export) -> Iterator[tuple[str, bytes]]:
    """The labels and the manifest."""
    path = paths.of_files(each.name for each in export.images)
    images = [dataclasses.replace(each, name=path[each.name]) for each in export.sized]
    entries = (coco.entry(each.number, each.name, each.uri, each.width, each.height) for each in images)
    yield "fiftyone/labels.json", coco.document(export.class_names, export.model, entries, images)
    manifest = {each.name: each.uri for each in images}
    yield "fiftyone/data.json", (json.dumps(manifest, ensure_ascii=False, indent=0) + "\n").encode()
