"""The whole class distribution of every box, which uncertainty is computed from.

A row has one entry for each class and a last one for "none of them" (the background), and sums to 1. The entry at the
predicted class is the score, of every kind but ``native``. Where the others come from depends on the head:

- ``softmax`` (Faster, Mask, Keypoint and Cascade R-CNN): the row is the head's own softmax; of a cascade, whose scores
  are the mean over its stages, the mean of their softmaxes.
- ``sigmoid`` (RetinaNet, FCOS, and R-CNN heads trained with sigmoids): the head has no background and rates each class
  by itself. `exclusive` says how that becomes a distribution.
- ``native``: the model gives ``class_probabilities`` itself (`job.detect.yolo` says how).
- ``synthetic`` (any other model): what the score leaves is spread evenly over all others. Scores of uncertainty then
  mean little more than "far from 1".

Boxes, scores and classes are those of detectron2, to the bit. Only its own classes are known, since one that derives
from them may run inference its own way.
"""

from functools import partial
from typing import Any, Literal

import torch
from detectron2.modeling import FCOS, GeneralizedRCNN, PanopticFPN, RetinaNet, StandardROIHeads
from detectron2.modeling.meta_arch import DenseDetector
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, Res5ROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances

Kind = Literal["softmax", "sigmoid", "native", "synthetic"]


def attach(model: torch.nn.Module) -> Kind:
    """Makes a model add ``class_probabilities`` to the instances it returns, where its head is known.

    Args:
        model: A detectron2 model that is in evaluation mode and stays there; changed in place.

    Returns:
        Where the probabilities come from.
    """
    if type(model) in (RetinaNet, FCOS):
        return _attach_to_dense(model)
    if type(model) in (GeneralizedRCNN, PanopticFPN):
        return _attach_to_heads(model.roi_heads)
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


def exclusive(
    class_scores: torch.Tensor, classes: torch.Tensor, scores: torch.Tensor, *, power: int = 1
) -> torch.Tensor:
    """Turns ratings of each class by itself into distributions over "one of the classes, or none".

    What an anchor or a proposal is trained on is one class or none at all. So the sigmoids of a calibrated head are the
    probabilities of outcomes that exclude each other: they sum to at most 1, and what is left is the background. With
    r_k for the rating of class k, and c for the predicted class, whose score is s, the row is

        p_c = s        p_k = r_k * min(1, (1 - s) / sum of r_j over all j but c)        background: the rest.

    Where the ratings sum to more than 1, which nothing keeps them from, the other classes share what the score leaves
    in proportion, and no background is left. Two boxes of one anchor have the same row unless that is so. As with a
    softmax, a faint box that is almost surely nothing is near a row of background alone, and one that may be two things
    is torn between these two.

    FCOS (Tian et al., https://arxiv.org/abs/2006.09214, equation 4) scores by the root of sigmoid and centerness, which
    would raise hundredths of many classes to tenths. Its row keeps the classes in proportion to their sigmoids: r_k is
    s * sigmoid_k / sigmoid_c, in which the centerness cancels out, so that it is s * (score_k / s)^2. That is ``power``
    2, and 1 is everything else.

    Args:
        class_scores: (boxes, classes) in [0, 1], what the score would be for each class. NaN counts as 0.
        classes: (boxes,) predicted classes.
        scores: (boxes,) in (0, 1], those of the predicted classes.
        power: Ratings are in proportion to this power of the class scores.

    Returns:
        (boxes, classes + 1) float32 rows in [0, 1] that sum to 1, the background last.
    """
    own, top = classes[:, None], scores.float()[:, None]
    left = (1 - top).clamp(min=0)  # a mean over stages may be rounded to more than 1
    others = class_scores.float().nan_to_num(nan=0.0).pow(power).scatter(1, own, 0.0)
    total = others.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    others = others * torch.minimum(top.pow(1 - power), left / total)
    background = (left - others.sum(dim=1, keepdim=True)).clamp(min=0)
    return torch.cat([others.scatter(1, own, top), background], dim=1)


def _attach_to_heads(heads: Any) -> Kind:
    cascade = type(heads) is CascadeROIHeads
    predictors: list[Any] = list(heads.box_predictor) if cascade else [getattr(heads, "box_predictor", None)]
    known = cascade or type(heads) in (StandardROIHeads, Res5ROIHeads)
    if not known or any(type(each) is not FastRCNNOutputLayers for each in predictors):
        return "synthetic"
    if cascade:
        heads._forward_box = partial(_forward_cascade, heads)
    else:
        predictors[0].inference = partial(_infer, predictors[0])
    return "sigmoid" if predictors[-1].use_sigmoid_ce else "softmax"


def _infer(predictor: Any, predictions: Any, proposals: list[Instances]) -> Any:
    """FastRCNNOutputLayers.inference, with rows."""
    boxes = predictor.predict_boxes(predictions, proposals)
    probabilities = predictor.predict_probs(predictions, proposals)
    return _keep(predictor, boxes, probabilities, [each.image_size for each in proposals])


def _forward_cascade(heads: Any, features: dict[str, torch.Tensor], proposals: list[Instances]) -> list[Instances]:
    """CascadeROIHeads._forward_box in evaluation, which does not tell which proposals it kept, with rows."""
    maps = [features[each] for each in heads.box_in_features]
    sizes = [each.image_size for each in proposals]
    boxes: Any = None
    stages = []
    for stage, predictor in enumerate(heads.box_predictor):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(maps, proposals, stage)
        boxes = predictor.predict_boxes(predictions, proposals)
        stages.append(predictor.predict_probs(predictions, proposals))
    probabilities = [sum(each) * (1.0 / len(stages)) for each in zip(*stages, strict=True)]
    instances: list[Instances] = _keep(heads.box_predictor[-1], boxes, probabilities, sizes)[0]
    return instances


def _keep(predictor: Any, boxes: Any, probabilities: Any, sizes: list[tuple[int, int]]) -> Any:
    """Thresholds and suppresses as detectron2 does, and gives what is kept its rows.

    Args:
        predictor: FastRCNNOutputLayers, for its thresholds and for what its outputs are.
        boxes: For each image (proposals, 4) or (proposals, 4 * classes).
        probabilities: For each image (proposals, classes + 1).
        sizes: For each image height and width.

    Returns:
        For each image the instances; and for each their indices, as fast_rcnn_inference counts them.
    """
    limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
    instances, kept = fast_rcnn_inference(boxes, probabilities, sizes, *limits)
    for image, index, box, row in zip(instances, kept, boxes, probabilities, strict=True):
        # detectron2 drops rows that are not finite before it counts: the indices are into what is left.
        finite = torch.isfinite(box).all(dim=1) & torch.isfinite(row).all(dim=1)
        rows = row[finite][index]
        if predictor.use_sigmoid_ce:  # the last column is there, but nothing ever trained it
            rows = exclusive(rows[:, :-1], image.pred_classes, image.scores)
        image.class_probabilities = rows
    return instances, kept


def _attach_to_dense(model: Any) -> Kind:
    power = 2 if type(model) is FCOS else 1

    def decode(anchors: Any, class_scores: torch.Tensor, *more: Any) -> Any:
        taken = _Taken(anchors.tensor)
        found = DenseDetector._decode_per_level_predictions(model, taken, class_scores, *more)
        found.class_scores = class_scores[taken.index]
        return found

    def infer(*arguments: Any) -> Any:
        found = type(model).inference_single_image(model, *arguments)
        found.class_probabilities = exclusive(found.class_scores, found.pred_classes, found.scores, power=power)
        found.remove("class_scores")
        return found

    # One level gives its boxes the ratings of their anchors, and they stay with them through all levels and the
    # suppression; rows are made for the few boxes that are left.
    model._decode_per_level_predictions = decode
    model.inference_single_image = infer
    return "sigmoid"


class _Taken:
    """Stands in for the anchors of a level while they are decoded, and notes which were taken.

    Attributes:
        tensor: What Boxes has under this name.
        index: (boxes,) the anchors of the boxes, once they are decoded.
    """

    def __init__(self, anchors: torch.Tensor) -> None:
        self.tensor = self
        self.index = torch.empty(0, dtype=torch.int64)
        self._anchors = anchors

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        self.index = index
        return self._anchors[index]
