"""Names of formats that are recognised but cannot be read, for messages."""

import re
from typing import Any

_AS_COCO = "Export COCO with scores from there"
# By the keys that an object must have, and those that the first entry of a list must have.
_OBJECTS: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"images", "detection_categories"}), "MegaDetector's output. Convert it to COCO with scores"),
    (frozenset({"samples"}), f"an export of FiftyOne. {_AS_COCO}"),
    (frozenset({"shapes", "imagePath"}), "a file of LabelMe, whose boxes have no scores. Give predictions with scores"),
    (frozenset({"file_name", "predictions"}), "one file of Lightly's format. Give the folder"),
    (frozenset({"task_type", "categories"}), "one file of Lightly's format. Give the folder"),
)
_ENTRIES: tuple[tuple[frozenset[str], str], ...] = (
    (frozenset({"annotations", "data"}), f"an export of Label Studio. {_AS_COCO}"),
    (frozenset({"predictions", "data"}), f"tasks of Label Studio. {_AS_COCO}"),
)
_CONTENTS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(\?xml|annotations?)\b", "XML, as of CVAT or Pascal VOC. Export COCO with scores"),
    (rb"PK\x03\x04", "a zip archive, or a checkpoint of PyTorch. Unpack it, or write the predictions as COCO"),
    (rb"\x80[\x02-\x05]", "a pickle, as of MMDetection. Write the predictions as COCO results, such as by format_only"),
    (rb"\x89HDF", "HDF5. Write the predictions as Parquet"),
    (rb"\s*\{.*\}\s*\n\s*\{", "JSON Lines. Write one COCO JSON file"),
    (rb"[^\n\[{]*,[^\n]*\n", "CSV. Write the predictions as Parquet"),
)


def describe_bytes(data: bytes) -> str | None:
    """Says what the bytes of a file look like, and what to do; None if they look like nothing known."""
    head = data[:10_000]
    return next((words for pattern, words in _CONTENTS if re.match(pattern, head)), None)


def describe_json(content: Any) -> str | None:
    """Says what the content of a JSON file looks like, and what to do; None if it looks like nothing known."""
    entry, table = (content[0], _ENTRIES) if isinstance(content, list) and content else (content, _OBJECTS)
    if not isinstance(entry, dict):
        return None
    return next((words for keys, words in table if keys <= entry.keys()), None)
