"""Faster, Mask, Keypoint and Cascade R-CNN on a whole batch: the boxes of detectron2, with one wait for the GPU.

The wait is for the number of proposals. A cascade waits once more for each further stage, since the boxes of one stage
decide from which level of the feature pyramid the next one reads.
"""

from dataclasses import replace
from typing import Any

import torch
from detectron2.modeling import FastRCNNOutputLayers, GeneralizedRCNN, StandardROIHeads
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, Res5ROIHeads

from job.detect.batched.anchors import make_anchors
from job.detect.batched.choice import choose, rank
from job.detect.batched.found import Found
from job.detect.batched.proposals import Suppression
from job.detect.batched.rois import Regions, assign_levels, count_levels, pool
from job.detect.batched.steps import Steps
from job.detect.batched.tables import clip, order_first, take
from job.detect.probabilities import make_exclusive


def supports(model: Any) -> bool:
    """Checks whether a model consists of parts whose inference is known here, and of no classes derived from them."""
    if type(model) is not GeneralizedRCNN or type(model.proposal_generator) is not RPN:
        return False
    rpn, heads = model.proposal_generator, model.roi_heads
    if type(heads) not in (StandardROIHeads, CascadeROIHeads, Res5ROIHeads):
        return False
    predictors = _list_predictors(heads)
    return (
        type(rpn.anchor_generator) is DefaultAnchorGenerator
        and type(_find_pooler(heads)) is ROIPooler
        and all(type(predictor) is FastRCNNOutputLayers for predictor in predictors)
        and all(type(part.box2box_transform) is Box2BoxTransform for part in (rpn, *predictors))
        and not heads.mask_on
        and not getattr(heads, "keypoint_on", False)
    )


def detect(model: Any, features: dict[str, torch.Tensor], size: tuple[int, int]) -> Steps[Found]:
    """Detects objects in N images of one size.

    Args:
        model: A model that is supported, in evaluation mode.
        features: Feature maps of the backbone by name.
        size: Height and width of the images, before padding.

    Returns:
        Steps to the boxes, in pixels of the resized images.
    """
    exists, slots, regions = yield from _propose(model, features, size)
    boxes, probabilities, inputs = yield from _predict(model.roi_heads, features, regions, size)
    # detectron2 drops rows that are not finite. Here they stay in the tables, as zeros.
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(probabilities).all(dim=1)
    values = torch.cat([boxes, probabilities, torch.ones_like(boxes[:, :1])], dim=1)
    table = values.new_zeros((exists.numel(), values.shape[1]))
    table[slots] = torch.where(finite[:, None], values, 0)
    corners, padded, flags = torch.split(
        table.view(*exists.shape, -1), [boxes.shape[1], probabilities.shape[1], 1], dim=2
    )
    by_class = corners.reshape(*exists.shape, -1, 4)
    predictor = _list_predictors(model.roi_heads)[-1]
    found, proposals = _choose(predictor, clip(by_class, size), padded, flags[..., 0] > 0)
    # Features are long, so they are taken for the chosen boxes alone. Rows that do not exist get any.
    places = torch.zeros_like(exists, dtype=torch.int64).flatten()
    places[slots] = torch.arange(len(inputs), device=places.device)
    chosen = places.view(exists.shape).gather(1, proposals)
    of_chosen = inputs[chosen] if len(inputs) else inputs.new_zeros((*chosen.shape, inputs.shape[1]))
    return replace(found, features=of_chosen)


def _propose(
    model: Any, features: dict[str, torch.Tensor], size: tuple[int, int]
) -> Steps[tuple[torch.Tensor, torch.Tensor, Regions]]:
    """Returns which of the (N, P) proposals exist, where the M of them are in this table, and their regions."""
    rpn, pooler = model.proposal_generator, _find_pooler(model.roi_heads)
    anchors = make_anchors(rpn.anchor_generator, [features[name] for name in rpn.in_features])
    suppression = Suppression(rpn, features, anchors, size)
    while True:
        proposals = suppression.run()
        exists, boxes = proposals.exists.flatten(), proposals.boxes.flatten(0, 1)
        levels = torch.where(exists, assign_levels(pooler, boxes), -1)
        settled, count, *level_counts = yield torch.stack(
            [proposals.settled, exists.sum(), *count_levels(pooler, levels)]
        )
        if settled:
            break
    slots = order_first(exists)[:count]
    regions = Regions(slots // proposals.exists.shape[1], boxes[slots], levels[slots], level_counts)
    return proposals.exists, slots, regions


def _predict(
    heads: Any, features: dict[str, torch.Tensor], regions: Regions, size: tuple[int, int]
) -> Steps[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Returns boxes (M, 4) or (M, 4 * classes), probabilities (M, classes + 1) and the predictor's input (M, D).

    Any of them may be not finite.
    """
    pooler, maps = _find_pooler(heads), [features[name] for name in heads.in_features]
    boxes, lost, stages = regions.boxes, torch.zeros_like(regions.boxes[:, :1], dtype=torch.bool), []
    for stage, predictor in enumerate(_list_predictors(heads)):
        if stage > 0:
            boxes = clip(torch.where(lost, 0, boxes), size)
            levels = assign_levels(pooler, boxes)
            level_counts = yield count_levels(pooler, levels)
            regions = Regions(regions.images, boxes, levels, level_counts)
        inputs = _read(heads, stage, pool(pooler, maps, regions))
        logits, deltas = predictor(inputs)
        boxes = predictor.box2box_transform.apply_deltas(deltas, regions.boxes)
        lost = lost | ~torch.isfinite(boxes).all(dim=1, keepdim=True)
        stages.append(logits.sigmoid() if predictor.use_sigmoid_ce else logits.softmax(dim=-1))
    return boxes.masked_fill(lost, torch.nan), sum(stages) * (1.0 / len(stages)), inputs.flatten(1)


def _choose(
    predictor: Any, boxes: torch.Tensor, probabilities: torch.Tensor, exists: torch.Tensor
) -> tuple[Found, torch.Tensor]:
    """Chooses among all boxes of N images.

    Args:
        predictor: FastRCNNOutputLayers with the thresholds.
        boxes: (N, P, classes or 1, 4) clipped corners.
        probabilities: (N, P, classes + 1).
        exists: (N, P) bool: rows that count.

    Returns:
        The boxes without features, and (N, K) the proposal that each came from.
    """
    scores = probabilities[..., :-1]
    candidates = exists[..., None] & (scores > predictor.test_score_thresh)
    ranking = rank(scores.masked_fill(~candidates, -torch.inf).flatten(1))
    variants = boxes.shape[2]
    rows, classes = ranking.index // scores.shape[2], ranking.index % scores.shape[2]
    corners = take(boxes.flatten(1, 2), rows * variants + classes % variants)
    used = candidates if variants > 1 else candidates.any(dim=2, keepdim=True)
    highest = boxes.amax(dim=3).masked_fill(~used, 0).amax(dim=(1, 2))
    choice = choose(
        ranking,
        corners,
        classes,
        highest,
        threshold=predictor.test_nms_thresh,
        most=predictor.test_topk_per_image,
    )
    rows = rows.gather(1, choice.index)
    found = Found(
        boxes=take(corners, choice.index),
        scores=ranking.scores.gather(1, choice.index),
        classes=classes.gather(1, choice.index),
        probabilities=take(probabilities, rows),
        features=probabilities.new_zeros((*rows.shape, 0)),
        exists=choice.exists,
        settled=choice.settled,
    )
    if not predictor.use_sigmoid_ce:
        return found, rows
    # The last column exists, but is never trained.
    rows_of_sigmoids = make_exclusive(
        found.probabilities[..., :-1].flatten(0, 1), found.classes.flatten(), found.scores.flatten()
    )
    return replace(found, probabilities=rows_of_sigmoids.view_as(found.probabilities)), rows


def _list_predictors(heads: Any) -> list[Any]:
    return list(heads.box_predictor) if type(heads) is CascadeROIHeads else [heads.box_predictor]


def _find_pooler(heads: Any) -> Any:
    return heads.pooler if type(heads) is Res5ROIHeads else heads.box_pooler


def _read(heads: Any, stage: int, pooled: torch.Tensor) -> torch.Tensor:
    """Returns the input of the predictor, from the pooled features of the regions."""
    if type(heads) is Res5ROIHeads:
        return heads.res5(pooled).mean(dim=[2, 3])  # type: ignore[no-any-return]
    head = heads.box_head[stage] if type(heads) is CascadeROIHeads else heads.box_head
    return head(pooled)  # type: ignore[no-any-return]
