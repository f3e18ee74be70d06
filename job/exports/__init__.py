"""The picks with their detections as pre-labels, in the formats of labelling tools; see `job.exports.table`.

All boxes are in the image after its EXIF orientation. A tool that ignores EXIF shows them in the wrong place.
"""

from job.exports.copies import copy_selected, remove_copies
from job.exports.prelabels import PreLabels, check_classes
from job.exports.table import FORMATS, markdown_table
from job.exports.uris import make_task_uri_builder, make_uri_builder
from job.exports.writing import ALL_IMAGES, remove, write, write_all_images

__all__ = [
    "ALL_IMAGES",
    "FORMATS",
    "PreLabels",
    "check_classes",
    "copy_selected",
    "make_task_uri_builder",
    "make_uri_builder",
    "markdown_table",
    "remove",
    "remove_copies",
    "write",
    "write_all_images",
]
