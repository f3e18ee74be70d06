"""The picks with their detections as pre-labels, in the formats of labelling tools; see `job.exports.writing`.

All boxes are in the image after its EXIF orientation: a tool that ignores EXIF shows them in the wrong place.
"""

from job.exports.copies import copy_selected
from job.exports.uris import of_input
from job.exports.writing import ALL, FORMATS, write, write_all_coco

__all__ = ["ALL", "FORMATS", "copy_selected", "of_input", "write", "write_all_coco"]
