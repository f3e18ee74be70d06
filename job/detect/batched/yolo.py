"""YOLOv3-tiny on a whole batch: the boxes of the model itself, without waiting for the GPU."""

from typing import Any

import torch
from torch.nn import functional

from job.detect.batched.choice import choose, rank
from job.detect.batched.found import Found
from job.detect.batched.tables import resize, take
from job.detect.yolo import PAD_VALUE, STRIDE, TinyYolo


def supports(model: Any) -> bool:
    """Checks whether the model is the one that is known here, and not of a class derived from it."""
    return type(model) is TinyYolo


def detect(model: Any, images: torch.Tensor, output_sizes: list[tuple[int, int]]) -> Found:
    """Detects objects in N images of one size.

    Args:
        model: A model that is supported, in evaluation mode.
        images: (N, 3, height, width) bytes.
        output_sizes: Height and width of each original image.

    Returns:
        The boxes, in pixels of the original images.
    """
    height, width = images.shape[2:]
    normalised = (images - model.pixel_mean) / model.pixel_std
    padded = functional.pad(normalised, (0, -width % STRIDE, 0, -height % STRIDE), value=PAD_VALUE)
    boxes, objectness, class_scores, cells, feature_map = model.predict(padded)
    boxes = resize(boxes, (height, width), output_sizes)
    finite = torch.isfinite(boxes).all(dim=2)
    boxes = torch.where(finite[..., None], boxes, 0)
    scores = objectness[..., None] * class_scores
    candidates = finite[..., None] & (scores > model.score_threshold)
    ranking = rank(scores.masked_fill(~candidates, -torch.inf).flatten(1))
    anchors, classes = ranking.index // model.num_classes, ranking.index % model.num_classes
    choice = choose(
        ranking,
        take(boxes, anchors),
        classes,
        highest=boxes.amax(dim=2).masked_fill(~candidates.any(dim=2), 0).amax(dim=1),
        threshold=model.nms_threshold,
        most=model.max_detections,
    )
    anchors = anchors.gather(1, choice.index)
    certainty, ratings = objectness.gather(1, anchors), take(class_scores, anchors)
    return Found(
        boxes=take(boxes, anchors),
        scores=ranking.scores.gather(1, choice.index),
        classes=classes.gather(1, choice.index),
        probabilities=model.share(certainty.flatten(), ratings.flatten(0, 1)).unflatten(0, anchors.shape),
        features=take(feature_map.flatten(2).transpose(1, 2), cells.gather(1, anchors)),
        exists=choice.exists,
        settled=choice.settled,
    )
