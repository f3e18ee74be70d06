"""A detection head on frozen features, for `benchmarks.quality`: it is trained in a fifth of a second, without noise.

The class of a cell is a multinomial logistic regression over ten digits and the background; boxes are a ridge
regression. Both problems are convex, so that the same images always give the same head.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks.street import CELLS, CLASSES, FEATURES, SIZE, STRIDE, Street
from job import scores as formulas

# Chosen by the AP50 of random images alone.
_PENALTY, _BOX_PENALTY, _ITERATIONS = 1e-2, 30.0, 30
_BACKGROUND_CELLS, _BACKGROUND_WEIGHT = 24, 0.25
_TYPICAL_SIDE = 48.0  # of a sign, in pixels
SCORE_THRESHOLD, _AP_THRESHOLD, MAX_BOXES = 0.05, 0.02, 12
_BATCH = 500


class Head(NamedTuple):
    """A trained head.

    Attributes:
        classes: (65, 11) logits of the digits and the background; the last row is the bias.
        boxes: (65, 4) offset of the centre in cells, and logarithms of width and height, less their mean.
        mean: (4,) the mean.
    """

    classes: torch.Tensor
    boxes: torch.Tensor
    mean: torch.Tensor


@dataclass(frozen=True)
class Detections:
    """Boxes of some images, highest score first, padded to 12 for each.

    Attributes:
        scores: (n, 12) detection confidences.
        classes: (n, 12) predicted digits.
        boxes: (n, 12, 4) left, top, right, bottom in pixels.
        probabilities: (n, 12, 11) class distributions, the background last.
        features: (n, 12, 64) features of the boxes' cells.
    """

    scores: Any
    classes: Any
    boxes: Any
    probabilities: Any
    features: Any

    @property
    def valid(self) -> Any:
        """(n, 12) whether a box is one, and not padding."""
        return self.scores > SCORE_THRESHOLD

    def as_boxes(self) -> formulas.Boxes:
        """The boxes in the form that the product's scores are computed from."""
        valid = self.valid
        return formulas.Boxes(
            valid.sum(axis=1),
            self.boxes[valid],
            self.scores[valid].astype(np.float64),
            self.classes[valid],
            formulas.normalize(self.probabilities[valid]),
        )


class Trainer:
    """Trains heads on images of a street; what each image contributes is computed once.

    Args:
        street: The images.
    """

    def __init__(self, street: Street) -> None:
        self._street = street
        self._samples: dict[int, tuple[Any, Any, Any, Any]] = {}

    def train(self, images: Any, start: Head | None = None) -> Head:
        """Trains a head.

        Args:
            images: Rows of the images.
            start: A head from which to begin, which only saves time; None for one that predicts the background.
        """
        columns = zip(*(self._sample(int(image)) for image in images), strict=True)
        inputs, labels, weights, targets = (torch.from_numpy(np.concatenate(column)) for column in columns)
        signs = labels < CLASSES
        weights = weights[:, None] / max(1, int(signs.sum()))
        wanted = functional.one_hot(labels, CLASSES + 1).float()
        penalty = torch.full((FEATURES + 1, 1), _PENALTY)
        penalty[-1] = 0
        classes = torch.zeros(FEATURES + 1, CLASSES + 1) if start is None else start.classes.clone()
        if start is None:
            classes[-1, CLASSES] = 2
        parameter = torch.nn.Parameter(classes)
        optimizer = torch.optim.LBFGS(
            [parameter], max_iter=_ITERATIONS, history_size=8, line_search_fn="strong_wolfe", tolerance_grad=1e-4
        )

        def loss() -> torch.Tensor:
            with torch.no_grad():
                logarithms = torch.log_softmax(inputs @ parameter, dim=1)
                parameter.grad = inputs.T @ (weights * (logarithms.exp() - wanted)) + penalty * parameter
                return (penalty * parameter**2).sum() / 2 - (weights * logarithms * wanted).sum()

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        chosen, mean = inputs[signs], targets.mean(dim=0)
        gram = chosen.T @ chosen + _BOX_PENALTY * torch.eye(FEATURES + 1)
        return Head(parameter.detach(), torch.linalg.solve(gram, chosen.T @ (targets - mean)), mean)

    def _sample(self, image: int) -> tuple[Any, Any, Any, Any]:
        """Inputs, labels and weights of an image's signs and of some background; and the targets of its boxes."""
        if image not in self._samples:
            street, count = self._street, int(self._street.signs[image])
            boxes, labels = street.boxes[image, :count], street.classes[image, :count].astype(np.int64)
            centers = (boxes[:, :2] + boxes[:, 2:]) / 2 / STRIDE
            column, row = np.clip(centers.astype(int), 0, CELLS - 1).T
            near = np.zeros((CELLS + 2, CELLS + 2), bool)
            for down in range(3):
                for right in range(3):
                    near[row + down, column + right] = True
            free = np.flatnonzero(~near[1:-1, 1:-1].ravel())
            background = np.random.default_rng(image).choice(free, min(_BACKGROUND_CELLS, len(free)), replace=False)
            cells = np.concatenate([row * CELLS + column, background])
            inputs = np.ones((len(cells), FEATURES + 1), np.float32)
            inputs[:, :-1] = street.features[image][cells]
            weight = _BACKGROUND_WEIGHT * len(free) / max(1, len(background))
            targets = np.concatenate(
                [centers - np.stack([column, row], axis=1), np.log((boxes[:, 2:] - boxes[:, :2]) / _TYPICAL_SIDE)],
                axis=1,
            )
            self._samples[image] = (
                inputs,
                np.concatenate([labels, np.full(len(background), CLASSES)]),
                np.concatenate([np.ones(count), np.full(len(background), weight)]).astype(np.float32),
                targets.astype(np.float32),
            )
        return self._samples[image]


@torch.inference_mode()
def detect(head: Head, features: Any) -> Detections:
    """Runs a head over images.

    Args:
        head: The head.
        features: (n, 144, 64) features of their cells.
    """
    batches = []
    for start in range(0, len(features), _BATCH):
        inputs = torch.from_numpy(np.asarray(features[start : start + _BATCH], np.float32))
        logits = inputs @ head.classes[:-1] + head.classes[-1]
        best, label = logits[..., :CLASSES].max(dim=2)
        score = torch.exp(best - torch.logsumexp(logits, dim=2))
        grid = score.view(-1, 1, CELLS, CELLS)
        peak = (grid == functional.max_pool2d(grid, 3, stride=1, padding=1)).view(score.shape)
        score, cell = (score * peak).topk(MAX_BOXES)
        chosen = torch.take_along_dim(inputs, cell[..., None], dim=1)
        shape = chosen @ head.boxes[:-1] + head.boxes[-1] + head.mean
        center = STRIDE * (torch.stack([cell % CELLS, cell // CELLS], dim=2) + shape[..., :2])
        half = _TYPICAL_SIDE / 2 * torch.exp(shape[..., 2:].clamp(-2, 2))
        boxes = torch.cat([center - half, center + half], dim=2).clamp(0, SIZE)
        probabilities = torch.softmax(torch.take_along_dim(logits, cell[..., None], dim=1), dim=2)
        batches.append((score, torch.take_along_dim(label, cell, dim=1), boxes, probabilities, chosen))
    return Detections(*(torch.cat(column).numpy() for column in zip(*batches, strict=True)))


def ap50(found: Detections, boxes: Any, classes: Any) -> float:
    """Average precision at an overlap of 0.5, the mean over the classes: the area under precision's upper envelope.

    Args:
        found: The detections.
        boxes: (n, 8, 4) the true boxes.
        classes: (n, 8) their classes, padded with -1.
    """
    hit = _find_hits(found, boxes, classes)
    used = found.scores > _AP_THRESHOLD
    scores, labels, hits = found.scores[used], found.classes[used], hit[used]
    precisions = []
    for label, count in enumerate(np.bincount(classes[classes >= 0], minlength=CLASSES)):
        if count:
            of_class = labels == label
            right = hits[of_class][np.argsort(-scores[of_class], kind="stable")]
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            precisions.append(envelope[right].sum() / count)
    return float(np.mean(precisions))


def _find_hits(found: Detections, boxes: Any, classes: Any) -> Any:
    """(n, 12) whether a box is a hit: by falling score, each box takes the best object of its class that is left."""
    mine, true = found.boxes[:, :, None], boxes[:, None]
    sides = np.minimum(mine[..., 2:], true[..., 2:]) - np.maximum(mine[..., :2], true[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = [np.maximum(corners[..., 2:] - corners[..., :2], 0).prod(axis=-1) for corners in (mine, true)]
    overlap = shared / np.maximum(areas[0] + areas[1] - shared, 1e-6)
    overlap[found.classes[:, :, None] != classes[:, None]] = 0
    hit = np.zeros(found.scores.shape, bool)
    rows = np.arange(len(boxes))
    for rank in range(found.scores.shape[1]):
        best = overlap[:, rank].argmax(axis=1)
        hit[:, rank] = (overlap[rows, rank, best] >= 0.5) & (found.scores[:, rank] > _AP_THRESHOLD)
        overlap[rows[hit[:, rank]], :, best[hit[:, rank]]] = 0
    return hit
