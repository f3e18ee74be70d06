"""Computes the class distribution of every box, from which the uncertainty scores are computed.

The row of a box has one entry per class and a last entry for the background ("none of the classes"), and sums to 1. The
entry of the predicted class is the score of the box, for every kind except ``native``. The other entries depend on the
head:

- ``softmax`` (Faster, Mask, Keypoint and Cascade R-CNN): the row is the softmax of the head. The scores of a cascade
  are the mean over its stages, so its row is the mean of their softmaxes.
- ``sigmoid`` (RetinaNet, FCOS, and R-CNN heads trained with sigmoids): the head has no background and scores each class
  independently. `make_exclusive` describes how these scores become a distribution.
- ``native``: the model itself returns ``class_probabilities`` (see `job.detect.yolo`).
- ``synthetic`` (any other model): the remainder, 1 - score, is the background. Uncertainty scores then depend on the
  score alone, and no class is named that the model did not predict.

Boxes, scores and classes are identical to those of detectron2, bit by bit. Only detectron2's own classes are supported,
since a derived class may run inference in another way.

The same places know which proposal or anchor a box came from, so they also add its feature (`job.detect.box_features`).
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import torch
from detectron2.modeling import FCOS, GeneralizedRCNN, PanopticFPN, RetinaNet, StandardROIHeads
from detectron2.modeling.meta_arch import DenseDetector
from detectron2.modeling.roi_heads import CascadeROIHeads, FastRCNNOutputLayers, Res5ROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Instances

from job.detect.box_features import LastInput, take_cells

Kind = Literal["softmax", "sigmoid", "native", "synthetic"]


def attach(model: torch.nn.Module) -> Kind:
    """Makes a model with a supported head add ``class_probabilities`` and ``box_features`` to its instances.

    Args:
        model: A detectron2 model that is in evaluation mode and stays in it; changed in place.

    Returns:
        The source of the probabilities.
    """
    if type(model) in (RetinaNet, FCOS):
        return _attach_to_dense(model)
    if type(model) in (GeneralizedRCNN, PanopticFPN):
        return _attach_to_heads(model.roi_heads)
    return "native" if hasattr(model, "darknet_layout") else "synthetic"


def of_instances(instances: Instances, num_classes: int) -> torch.Tensor:
    """Returns the class distributions of the boxes of one image.

    Args:
        instances: Output of the model for the image.
        num_classes: Number of classes, without the background.

    Returns:
        Shape (boxes, num_classes + 1).
    """
    if instances.has("class_probabilities"):
        probabilities: torch.Tensor = instances.class_probabilities
        return probabilities
    scores: torch.Tensor = instances.scores
    classes: torch.Tensor = instances.pred_classes
    rows = scores.new_zeros(len(scores), num_classes + 1)
    rows[:, -1] = 1 - scores
    return rows.scatter(1, classes[:, None], scores[:, None])


def make_exclusive(
    class_scores: torch.Tensor, classes: torch.Tensor, scores: torch.Tensor, *, power: int = 1
) -> torch.Tensor:
    """Converts independent scores of the classes into distributions over "one of the classes, or none".

    An anchor or a proposal is trained on one class or on none. So the sigmoids of a calibrated head are probabilities
    of mutually exclusive outcomes: they sum to at most 1, and the remainder is the background. Let r_k be the rating of
    class k, c the predicted class and s its score. Then the row is

        p_c = s        p_k = r_k * min(1, (1 - s) / sum of r_j over all j but c)        background: the rest.

    The ratings of a head may sum to more than 1. Then the other classes share the remainder, 1 - s, in proportion to
    their ratings, and the background is 0. Otherwise, two boxes of one anchor have the same row. As with a softmax, a
    low-confidence box that is almost surely nothing is nearly pure background, and a box that may be one of two classes
    is uncertain between these two.

    FCOS (Tian et al., https://arxiv.org/abs/2006.09214, equation 4) scores by the root of sigmoid times centerness,
    which would raise hundredths of many classes to tenths. Its row keeps the classes in proportion to their sigmoids:
    r_k is s * sigmoid_k / sigmoid_c. The centerness cancels out, so r_k is s * (score_k / s)^2. That is ``power`` 2;
    all other heads have ``power`` 1.

    Args:
        class_scores: (boxes, classes) in [0, 1], the score that the box would have for each class. NaN counts as 0.
        classes: (boxes,) predicted classes.
        scores: (boxes,) in (0, 1], scores of the predicted classes.
        power: Ratings are proportional to this power of the class scores.

    Returns:
        (boxes, classes + 1) float32 rows in [0, 1] that sum to 1, with the background last.
    """
    predicted, top = classes[:, None], scores.float()[:, None]
    remainder = (1 - top).clamp(min=0)  # a mean over stages may be rounded to more than 1
    others = class_scores.float().nan_to_num(nan=0.0).pow(power).scatter(1, predicted, 0.0)
    total = others.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    others = others * torch.minimum(top.pow(1 - power), remainder / total)
    background = (remainder - others.sum(dim=1, keepdim=True)).clamp(min=0)
    return torch.cat([others.scatter(1, predicted, top), background], dim=1)


def _attach_to_heads(heads: Any) -> Kind:
    cascade = type(heads) is CascadeROIHeads
    predictors: list[Any] = list(heads.box_predictor) if cascade else [getattr(heads, "box_predictor", None)]
    supported = cascade or type(heads) in (StandardROIHeads, Res5ROIHeads)
    if not supported or any(type(predictor) is not FastRCNNOutputLayers for predictor in predictors):
        return "synthetic"
    seen = LastInput(predictors[-1])
    if cascade:
        heads._forward_box = partial(_forward_cascade, heads, seen)
    else:
        predictors[0].inference = partial(_infer, predictors[0], seen)
    return "sigmoid" if predictors[-1].use_sigmoid_ce else "softmax"


def _infer(predictor: Any, seen: LastInput, predictions: Any, proposals: list[Instances]) -> Any:
    """Replaces FastRCNNOutputLayers.inference, and adds rows and features."""
    boxes = predictor.predict_boxes(predictions, proposals)
    probabilities = predictor.predict_probs(predictions, proposals)
    return _filter_boxes(predictor, seen, boxes, probabilities, [image.image_size for image in proposals])


def _forward_cascade(
    heads: Any, seen: LastInput, features: dict[str, torch.Tensor], proposals: list[Instances]
) -> list[Instances]:
    """Replaces CascadeROIHeads._forward_box, which does not say which proposals it keeps; adds rows and features."""
    maps = [features[level] for level in heads.box_in_features]
    sizes = [image.image_size for image in proposals]
    boxes: Any = None
    stages = []
    for stage, predictor in enumerate(heads.box_predictor):
        if stage > 0:
            proposals = heads._create_proposals_from_boxes(boxes, sizes)
        predictions = heads._run_stage(maps, proposals, stage)
        boxes = predictor.predict_boxes(predictions, proposals)
        stages.append(predictor.predict_probs(predictions, proposals))
    probabilities = [sum(tables) * (1.0 / len(stages)) for tables in zip(*stages, strict=True)]
    instances: list[Instances] = _filter_boxes(heads.box_predictor[-1], seen, boxes, probabilities, sizes)[0]
    return instances


def _filter_boxes(predictor: Any, seen: LastInput, boxes: Any, probabilities: Any, sizes: list[tuple[int, int]]) -> Any:
    """Applies score threshold and suppression as detectron2 does, and adds rows and features of the kept boxes.

    Args:
        predictor: FastRCNNOutputLayers with the thresholds and the kind of the outputs.
        seen: What the predictor was called with, for the proposals of all images.
        boxes: For each image, (proposals, 4) or (proposals, 4 * classes).
        probabilities: For each image, (proposals, classes + 1).
        sizes: For each image, height and width.

    Returns:
        For each image, the instances and their indices, as `fast_rcnn_inference` returns them.
    """
    limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
    instances, kept = fast_rcnn_inference(boxes, probabilities, sizes, *limits)
    features = torch.split(seen.value, [len(row) for row in probabilities])
    for image, index, box, row, feature in zip(instances, kept, boxes, probabilities, features, strict=True):
        # detectron2 drops rows that are not finite first, so the indices refer to the remaining rows.
        finite = torch.isfinite(box).all(dim=1) & torch.isfinite(row).all(dim=1)
        proposals = finite.nonzero()[:, 0][index]
        rows = row[proposals]
        if predictor.use_sigmoid_ce:  # the last column exists, but is never trained
            rows = make_exclusive(rows[:, :-1], image.pred_classes, image.scores)
        image.class_probabilities = rows
        image.box_features = feature[proposals]
    return instances, kept


def _attach_to_dense(model: Any) -> Kind:
    power = 2 if type(model) is FCOS else 1
    levels: Iterator[torch.Tensor] = iter(())  # feature maps of the image whose boxes are decoded
    images: Iterator[list[torch.Tensor]] = iter(())

    def infer_all(sizes: Any, feature_maps: list[torch.Tensor], predictions: Any) -> Any:
        nonlocal images
        images = ([level[number] for level in feature_maps] for number in range(len(feature_maps[0])))
        return type(model).forward_inference(model, sizes, feature_maps, predictions)

    def decode(anchors: Any, class_scores: torch.Tensor, *more: Any) -> Any:
        recorder, feature_map = _AnchorRecorder(anchors.tensor), next(levels)
        instances = DenseDetector._decode_per_level_predictions(model, recorder, class_scores, *more)
        instances.class_scores = class_scores[recorder.index]
        anchors_per_cell = len(class_scores) // feature_map[0].numel()
        instances.box_features = take_cells(feature_map, recorder.index // anchors_per_cell)
        return instances

    def infer(*arguments: Any) -> Any:
        nonlocal levels
        levels = iter(next(images))
        instances = type(model).inference_single_image(model, *arguments)
        instances.class_probabilities = make_exclusive(
            instances.class_scores, instances.pred_classes, instances.scores, power=power
        )
        instances.remove("class_scores")
        return instances

    # Each level gives its boxes the class scores and features of their anchors. They stay with the boxes across all
    # levels and the suppression, so that rows are computed only for the few remaining boxes.
    model.forward_inference = infer_all
    model._decode_per_level_predictions = decode
    model.inference_single_image = infer
    return "sigmoid"


class _AnchorRecorder:
    """Replaces the anchors of a level while boxes are decoded, and records which anchors are selected.

    Attributes:
        tensor: This object, in the place of the tensor of `Boxes`.
        index: (boxes,) indices of the selected anchors, once the boxes are decoded.
    """

    def __init__(self, anchors: torch.Tensor) -> None:
        self.tensor = self
        self.index = torch.empty(0, dtype=torch.int64)
        self._anchors = anchors

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        self.index = index
        return self._anchors[index]
