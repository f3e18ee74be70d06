"""What the values of a part must be, whoever wrote it: an output may be in a place where others can write."""

import numpy as np
import pyarrow as pa

from job.parts.columns import flatten_lists, make_schema

_PER_BOX = ("boxes", "scores", "classes", "class_probabilities")


def find_problem(table: pa.Table, num_classes: int) -> str | None:
    """Finds what is wrong with the rows of a part; None if nothing is.

    Args:
        table: All columns of the part.
        num_classes: Number of the detector's classes.
    """
    feature = table.schema.field("feature").type if "feature" in table.column_names else None
    width = feature.list_size if feature is not None and pa.types.is_fixed_size_list(feature) else None
    if not table.schema.remove_metadata().equals(make_schema(num_classes + 1, width)):
        return "its columns are not those of a part"
    usable = table.filter(pa.compute.equal(table["status"], "ok"))
    columns = {name: flatten_lists(usable[name]) for name in _PER_BOX}
    counts = columns["scores"][1]
    if any(usable[name].null_count or not np.array_equal(columns[name][1], counts) for name in _PER_BOX):
        return "an image has different numbers of boxes, scores and classes"
    classes, scores = columns["classes"][0], columns["scores"][0]
    if len(classes) and not (classes.min() >= 0 and classes.max() < num_classes):
        return "a class does not exist"
    for name, values in (("score", scores), ("probability", columns["class_probabilities"][0])):
        if len(values) and not (np.min(values) >= 0 and np.max(values) <= 1):  # NaN fails as well
            return f"a {name} is not a number from 0 to 1"
    if not np.isfinite(columns["boxes"][0]).all():
        return "a box is not finite"
    features = usable["feature"].combine_chunks()
    if not np.isfinite(features.flatten().to_numpy().astype(np.float32)).all():
        return "a feature is not finite"
    if any(thumbnail and not thumbnail.startswith(b"\xff\xd8") for thumbnail in usable["thumbnail"].to_pylist()):
        return "a thumbnail is not a JPEG file"
    return None
