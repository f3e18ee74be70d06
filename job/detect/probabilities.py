"""The whole class distribution of every box, which uncertainty is computed from.

A row has one entry for each class and a last one for "none of them" (the background), and sums to 1. Which relation it
has to the score depends on the head:

- ``softmax`` (Faster, Mask and Keypoint R-CNN): the row is the head's own softmax; its entry at the predicted class is
  the score.
- ``native``: the model gives ``class_probabilities`` itself (`job.detect.yolo` says how).
- ``synthetic`` (any other model): the entry at the predicted class is the score, and what is left is spread evenly over
  all others. Scores of uncertainty then mean little more than "far from 1".
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from detectron2.modeling import StandardROIHeads
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads
from detectron2.structures import Instances

Kind = Literal["softmax", "native", "synthetic"]


def attach(model: torch.nn.Module) -> Kind:
    """Makes a model add ``class_probabilities`` to the instances it returns, where its head is known.

    Args:
        model: A detectron2 model in evaluation mode; changed in place.

    Returns:
        Where the probabilities come from.
    """
    heads: Any = getattr(model, "roi_heads", None)
    predictor: Any = getattr(heads, "box_predictor", None)
    # The exact classes, since a subclass (Cascade R-CNN's heads, say) may run inference its own way.
    known = type(heads) in (StandardROIHeads, Res5ROIHeads) and type(predictor) is FastRCNNOutputLayers
    if known and not predictor.use_sigmoid_ce:
        predictor.inference = _with_probabilities(predictor)
        return "softmax"
    return "native" if hasattr(model, "darknet_layout") else "synthetic"


def of(instances: Instances, num_classes: int) -> torch.Tensor:
    """The class distributions of the boxes of one image.

    Args:
        instances: What the model returned.
        num_classes: Number of classes, without the background.

    Returns:
        Shape (boxes, num_classes + 1).
    """
    if instances.has("class_probabilities"):
        probabilities: torch.Tensor = instances.class_probabilities
        return probabilities
    scores: torch.Tensor = instances.scores
    classes: torch.Tensor = instances.pred_classes
    rows = ((1 - scores) / num_classes)[:, None].repeat(1, num_classes + 1)
    return rows.scatter(1, classes[:, None], scores[:, None])


def _with_probabilities(predictor: Any) -> Callable[..., Any]:
    inference = predictor.inference

    def wrapped(predictions: Any, proposals: list[Instances]) -> Any:
        instances, kept = inference(predictions, proposals)
        boxes = predictor.predict_boxes(predictions, proposals)
        probabilities = predictor.predict_probs(predictions, proposals)
        for image, index, box, row in zip(instances, kept, boxes, probabilities, strict=True):
            # detectron2 drops rows that are not finite before it counts: the indices are into what is left.
            finite = torch.isfinite(box).all(dim=1) & torch.isfinite(row).all(dim=1)
            image.class_probabilities = row[finite][index]
        return instances, kept

    return wrapped
