"""RetinaNet and FCOS on a whole batch: the boxes of detectron2, without waiting for the GPU."""

from typing import Any

import torch
from detectron2.modeling import FCOS, RetinaNet
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformLinear
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K

from job.detect.batched.anchors import make_anchors
from job.detect.batched.choice import choose, rank
from job.detect.batched.found import Found
from job.detect.batched.tables import take
from job.detect.probabilities import make_exclusive


def supports(model: Any) -> bool:
    """Checks whether a model consists of parts whose inference is known here, and of no classes derived from them."""
    return (
        type(model) in (RetinaNet, FCOS)
        and type(model.anchor_generator) is DefaultAnchorGenerator
        and type(model.box2box_transform) in (Box2BoxTransform, Box2BoxTransformLinear)
        and model.max_detections_per_image >= 0
    )


def detect(model: Any, features: dict[str, torch.Tensor]) -> Found:
    """Detects objects in N images of one size.

    Args:
        model: A model that is supported, in evaluation mode.
        features: Feature maps of the backbone by name.

    Returns:
        The boxes, in pixels of the resized images, which they may exceed.
    """
    maps = [features[name] for name in model.head_in_features]
    anchors = make_anchors(model.anchor_generator, maps)
    levels = [_select(model, *level) for level in zip(maps, anchors, *model.head(maps), strict=True)]
    boxes, scores, classes, ratings, of_cells = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    candidates = torch.isfinite(scores) & torch.isfinite(boxes).all(dim=2)
    ranking = rank(scores.masked_fill(~candidates, -torch.inf))
    corners, labels = take(boxes, ranking.index), classes.gather(1, ranking.index)
    corners = torch.where(torch.isfinite(ranking.scores)[..., None], corners, 0)
    choice = choose(
        ranking,
        corners,
        labels,
        highest=boxes.masked_fill(~candidates[..., None], -torch.inf).amax(dim=(1, 2)),
        threshold=model.test_nms_thresh,
        most=model.max_detections_per_image,
    )
    chosen, labels = ranking.scores.gather(1, choice.index), labels.gather(1, choice.index)
    pairs = ranking.index.gather(1, choice.index)
    class_scores = take(ratings, pairs)
    rows = make_exclusive(
        class_scores.flatten(0, 1), labels.flatten(), chosen.flatten(), power=2 if type(model) is FCOS else 1
    )
    return Found(
        boxes=take(corners, choice.index),
        scores=chosen,
        classes=labels,
        probabilities=rows.view(*labels.shape, -1),
        features=take(of_cells, pairs),
        exists=choice.exists,
        settled=choice.settled,
    )


def _select(
    model: Any,
    feature_map: torch.Tensor,
    anchors: torch.Tensor,
    logits: torch.Tensor,
    deltas: torch.Tensor,
    centerness: torch.Tensor | None = None,
) -> tuple[torch.Tensor, ...]:
    """Selects the best pairs of an anchor and a class of one level.

    Args:
        model: The model.
        feature_map: (N, D, rows, columns).
        anchors: (anchors, 4) corners.
        logits: (N, anchors of a place * classes, rows, columns).
        deltas: (N, anchors of a place * 4, rows, columns).
        centerness: (N, anchors of a place, rows, columns) logits of FCOS.

    Returns:
        Boxes (N, K, 4), scores (N, K) with -inf for pairs that do not count, classes (N, K), the scores
        (N, K, classes) of all classes, and the features (N, K, D) of the cells.
    """
    scores = _apply_sigmoid(permute_to_N_HWA_K(logits, model.num_classes))
    if centerness is not None:  # equation 4 of https://arxiv.org/abs/2006.09214
        scores = torch.sqrt(scores * _apply_sigmoid(permute_to_N_HWA_K(centerness, 1)))
    count = model.num_classes
    best = rank(
        scores.masked_fill(~(scores > model.test_score_thresh), -torch.inf).flatten(1), model.test_topk_candidates
    )
    index = best.index // count
    boxes = model.box2box_transform.apply_deltas(
        take(permute_to_N_HWA_K(deltas, 4), index).flatten(0, 1), anchors[index].flatten(0, 1)
    )
    cells = feature_map.flatten(2).transpose(1, 2)
    of_cells = take(cells, index // (len(anchors) // cells.shape[1]))
    return boxes.view(*index.shape, 4), best.scores, best.index % count, take(scores, index), of_cells


def _apply_sigmoid(logits: torch.Tensor) -> torch.Tensor:
    """Applies the sigmoid to the logits of N images, in place."""
    for image in logits:  # as detectron2 does: a CPU rounds a value in another way at the end of a tensor
        image.sigmoid_()
    return logits
