"""The names that settings accept, as plain constants, so that settings load none of the libraries behind them.

The tables of scores (`job.scores`) and export formats (`job.exports`) are checked against these names at import.
"""

# lightly's five first, by the formulas of its `ScorerObjectDetection`; its platform can select by these alone.
LIGHTLY_SCORES = (
    "object_frequency",
    "objectness_least_confidence",
    "uncertainty_least_confidence",
    "uncertainty_margin",
    "uncertainty_entropy",
)
SCORES = (*LIGHTLY_SCORES, "objectness_margin", "entropy_mean", "entropy_sum", "suspected_misses")
# The value of CORAL_PREDICTIONS for a selection without predictions.
NONE = "none"
# Begins the value of CORAL_EMBEDDING for a model of the package timm.
TIMM = "timm:"
EXPORT_FORMATS = ("coco", "yolo", "voc", "label_studio", "cvat", "fiftyone")
