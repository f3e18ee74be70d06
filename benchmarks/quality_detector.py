"""Scenes of digits, a small detector, an embedding and AP50 for `benchmarks.quality`.

Everything is small enough to train a detector from scratch in seconds on one core. Nothing is downloaded: the digits
come with scikit-learn. Boxes are x1, y1, x2, y2 in pixels.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import nn
from torch.nn import functional
from torchvision.ops import box_iou

from job import scores as formulas
from job.detect.probabilities import make_exclusive

CLASSES = 10
SIZE, STRIDE = 48, 4  # side of an image; stride of the detector's last feature
CELLS = SIZE // STRIDE
TYPICAL_SIDE = 12.0  # of a digit; the detector predicts sizes relative to it
TRAINING_DIGITS = 1200  # of scikit-learn's 1,797; the others appear only in test scenes
MAX_BURST, JITTER = 80, 2
SCORE_THRESHOLD, MAX_BOXES = 0.05, 10
BATCH = 256


@dataclass(frozen=True)
class Kind:
    """Kind of a pool.

    Attributes:
        bursts: Whether images come as in a video: runs of the same scene, slightly moved, some of them long.
        tail: How rare the rare classes are: the frequency of the k-th class is 1 / k ** tail.
    """

    bursts: bool
    tail: float


KINDS = {"redundant_tail": Kind(bursts=True, tail=1.3), "iid_balanced": Kind(bursts=False, tail=0.0)}


@dataclass(frozen=True)
class Scenes:
    """Images with their labels.

    Attributes:
        images: (n, 1, 48, 48) float32.
        boxes: (k, 4) boxes of each image.
        classes: (k,) classes of each image.
        scene: (n,) scene of each image; the images of one scene are near-duplicates.
    """

    images: Any
    boxes: list[Any]
    classes: list[Any]
    scene: Any

    def count_boxes(self, rows: list[int]) -> int:
        """Counts the boxes of some images."""
        return sum(len(self.boxes[row]) for row in rows)


class Digit(NamedTuple):
    """A digit in a scene: its number in scikit-learn's set, its class, its top left corner and its side."""

    number: int
    label: int
    x: int
    y: int
    side: int


@cache
def _load_digits() -> tuple[Any, Any]:
    """(1797, 8, 8) in [0, 1], and their classes."""
    loaded = load_digits()
    return (loaded.images / 16).astype(np.float32), loaded.target


@cache
def _resize(number: int, side: int) -> Any:
    image = Image.fromarray(_load_digits()[0][number])
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def make_scenes(rng: np.random.Generator, count: int, kind: Kind, *, test: bool = False) -> Scenes:
    """Draws images with one to four digits on one of four backgrounds."""
    frequency = 1 / np.arange(1, CLASSES + 1) ** kind.tail
    frequency /= frequency.sum()
    images: list[Any] = []
    boxes: list[Any] = []
    classes: list[Any] = []
    scene: list[int] = []
    while len(images) < count:
        digits, background = _arrange(rng, frequency, test), int(rng.integers(4))
        length = int(min(MAX_BURST, 1 + 3 * rng.pareto(1.0))) if kind.bursts else 1
        number = scene[-1] + 1 if scene else 0
        for _ in range(min(length, count - len(images))):
            shown = [_move(rng, digit) for digit in digits] if kind.bursts else digits
            images.append(_draw(rng, shown, background))
            boxes.append(np.array([(d.x, d.y, d.x + d.side, d.y + d.side) for d in shown], np.float32))
            classes.append(np.array([digit.label for digit in shown]))
            scene.append(number)
    return Scenes(np.stack(images)[:, None], boxes, classes, np.array(scene))


def _arrange(rng: np.random.Generator, frequency: Any, test: bool) -> list[Digit]:
    labels = _load_digits()[1].copy()
    labels[slice(None, TRAINING_DIGITS) if test else slice(TRAINING_DIGITS, None)] = -1
    digits = []
    for label in rng.choice(CLASSES, rng.integers(1, 5), p=frequency):
        side = int(rng.integers(10, 17))
        x, y = (int(coordinate) for coordinate in rng.integers(0, SIZE - side, 2))
        digits.append(Digit(int(rng.choice(np.flatnonzero(labels == label))), int(label), x, y, side))
    return digits


def _move(rng: np.random.Generator, digit: Digit) -> Digit:
    x, y = np.clip(np.array([digit.x, digit.y]) + rng.integers(-JITTER, JITTER + 1, 2), 0, SIZE - digit.side)
    return digit._replace(x=int(x), y=int(y))


def _draw(rng: np.random.Generator, digits: list[Digit], background: int) -> Any:
    across, image = np.arange(SIZE), np.zeros((SIZE, SIZE))
    if background == 1:
        image += np.linspace(0, 0.5, SIZE)
    elif background == 2:
        image += 0.25 * ((across[:, None] + across) // 6 % 2)
    elif background == 3:
        image += 0.35 * rng.random(image.shape)
    for digit in digits:
        window = image[digit.y : digit.y + digit.side, digit.x : digit.x + digit.side]
        np.maximum(window, _resize(digit.number, digit.side), out=window)
    return (image * rng.uniform(0.6, 1) + 0.06 * rng.standard_normal(image.shape)).astype(np.float32)


class Detector(nn.Module):
    """A CenterNet (Zhou et al., https://arxiv.org/abs/1904.07850) of 60,000 parameters."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        channels = [(1, width, 2), (width, width, 1), (width, 2 * width, 2), *[(2 * width, 2 * width, 1)] * 2]
        layers: list[nn.Module] = []
        for before, after, stride in channels:
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.backbone = nn.Sequential(*layers)
        self.width = 2 * width
        self.centers = nn.Conv2d(self.width, CLASSES, 1)
        self.shapes = nn.Conv2d(self.width, 4, 1)
        bias = self.centers.bias
        assert bias is not None
        nn.init.constant_(bias, -3.0)  # centers are rare, so the initial probabilities are low
        self.to(memory_format=torch.channels_last)  # trains in three quarters of the time

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, 1, 48, 48) → logits of centers (n, 10, 12, 12); offsets, log width, log height (n, 4, 12, 12)."""
        features = self.backbone(images)
        return self.centers(features), self.shapes(features)


def _make_targets(scenes: Scenes, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Training targets: heat around centers, shapes at centers, and a mask of the centers (n, 1, 12, 12)."""
    heat = np.zeros((len(rows), CLASSES, CELLS, CELLS), np.float32)
    shapes = np.zeros((len(rows), 4, CELLS, CELLS), np.float32)
    mask = np.zeros((len(rows), 1, CELLS, CELLS), np.float32)
    across = np.arange(CELLS)
    for image, row in enumerate(rows):
        for box, label in zip(scenes.boxes[row], scenes.classes[row], strict=True):
            center, extent = (box[:2] + box[2:]) / (2 * STRIDE), box[2:] - box[:2]
            x, y = (int(coordinate) for coordinate in center)
            spot = np.exp(-((across - x) ** 2 + (across[:, None] - y) ** 2) / (2 * 0.7**2))
            np.maximum(heat[image, label], spot, out=heat[image, label])
            shapes[image, :, y, x] = (*(center - (x, y)), *np.log(extent / TYPICAL_SIDE))
            mask[image, 0, y, x] = 1
    return torch.from_numpy(heat), torch.from_numpy(shapes), torch.from_numpy(mask)


def _loss(logits: torch.Tensor, shapes: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
    """CenterNet's loss: a focal loss that is weaker near centers, and L1 at centers."""
    heat, true_shapes, mask = targets
    chance = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    center = heat == 1
    hit = (1 - chance) ** 2 * chance.log()
    miss = (1 - heat) ** 4 * chance**2 * (1 - chance).log()
    focal = -torch.where(center, hit, miss).sum() / center.sum().clamp(min=1)
    return focal + (mask * (shapes - true_shapes).abs()).sum() / mask.sum().clamp(min=1)


def _augment(images: torch.Tensor, contrast: float, noise: float, generator: torch.Generator) -> torch.Tensor:
    factor = 1 + contrast * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return images * factor + noise * torch.randn(images.shape, generator=generator)


def train(scenes: Scenes, rows: list[int], seed: int, steps: int) -> Detector:
    """Trains a detector from scratch on some images; the seed decides initial weights, batches and augmentation."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    detector = Detector().train()
    optimizer = torch.optim.AdamW(detector.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    images, targets = torch.from_numpy(scenes.images[rows]), _make_targets(scenes, rows)
    for _ in range(steps):
        batch = torch.randint(0, len(rows), (32,), generator=generator)
        logits, shapes = detector(_augment(images[batch], 0.3, 0.04, generator))
        loss = _loss(logits, shapes, [target[batch] for target in targets])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return detector.eval()


@dataclass(frozen=True)
class Detections:
    """Boxes of some images, image after image.

    Attributes:
        counts: (images,) how many boxes each image has.
        boxes: (boxes, 4) boxes in pixels.
        scores: (boxes,) scores, highest first in each image.
        classes: (boxes,) predicted classes.
        probabilities: (boxes, 11) class distributions, the background last.
    """

    counts: Any
    boxes: Any
    scores: Any
    classes: Any
    probabilities: Any


@torch.inference_mode()
def detect(detector: Detector, scenes: Scenes) -> Detections:
    """Runs a detector over all images."""
    batches = []
    for start in range(0, len(scenes.images), BATCH):
        logits, shapes = detector(torch.from_numpy(scenes.images[start : start + BATCH]))
        chance = logits.sigmoid()
        peaks = chance * (chance == functional.max_pool2d(chance, 3, 1, 1))
        scores, places = peaks.flatten(1).topk(MAX_BOXES)
        image, rank = torch.nonzero(scores > SCORE_THRESHOLD, as_tuple=True)
        place, score = places[image, rank], scores[image, rank]
        label, y, x = place // CELLS**2, place // CELLS % CELLS, place % CELLS
        shape = shapes[image, :, y, x]
        center = STRIDE * (torch.stack([x, y], dim=1) + shape[:, :2])
        half = TYPICAL_SIDE * shape[:, 2:].exp() / 2
        rows = make_exclusive(chance[image, :, y, x], label, score)
        counts = torch.bincount(image, minlength=len(scores))
        batches.append((counts, torch.cat([center - half, center + half], dim=1), score, label, rows))
    return Detections(*(torch.cat(columns).numpy() for columns in zip(*batches, strict=True)))


def entropies(detections: Detections) -> dict[str, Any]:
    """Scores of images in [0, 1], from the entropies of their boxes as in `job.scores`.

    Returns:
        ``max``: the largest entropy of an image's boxes, which is the job's uncertainty_entropy. ``sum``: the sum over
        its boxes, divided by the largest such sum.
    """
    of_boxes = formulas.entropy(formulas.normalize(detections.probabilities))
    image = np.repeat(np.arange(len(detections.counts)), detections.counts)
    sums = np.bincount(image, weights=of_boxes, minlength=len(detections.counts))
    largest, _ = formulas.per_image_maximum(of_boxes, detections.counts)
    return {"max": largest, "sum": sums / (sums.max() or 1)}


def ap50(detections: Detections, scenes: Scenes) -> float:
    """Average precision at an overlap of 0.5, the mean over the classes: the area under precision's upper envelope."""
    hit = _find_hits(detections, scenes)
    truth = np.bincount(np.concatenate(scenes.classes), minlength=CLASSES)
    precisions = []
    for label in np.flatnonzero(truth):
        of_class = detections.classes == label
        hits = hit[of_class][np.argsort(-detections.scores[of_class], kind="stable")]
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        precisions.append(envelope[hits].sum() / truth[label])
    return float(np.mean(precisions))


def _find_hits(detections: Detections, scenes: Scenes) -> Any:
    """(boxes,) whether a box is a hit: by falling score, each box takes the best object that is left."""
    hit = np.zeros(len(detections.scores), bool)
    start = 0
    for boxes, classes, count in zip(scenes.boxes, scenes.classes, detections.counts, strict=True):
        stop = start + int(count)
        overlap = box_iou(torch.from_numpy(detections.boxes[start:stop]), torch.from_numpy(boxes)).numpy()
        overlap[detections.classes[start:stop, None] != classes] = 0
        for row in range(len(overlap)):
            best = overlap[row].argmax()
            if overlap[row, best] >= 0.5:
                hit[start + row] = True
                overlap[:, best] = 0
        start = stop
    return hit


def embed(scenes: Scenes, seed: int, steps: int) -> Any:
    """Embeddings of unit length, (n, 192), from SimCLR (https://arxiv.org/abs/2002.05709), which uses no labels."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = Detector()
    head = nn.Sequential(nn.Linear(network.width, 64), nn.ReLU(), nn.Linear(64, 32))
    parameters = [*network.backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3)
    images = torch.from_numpy(scenes.images)

    def view(batch: torch.Tensor) -> torch.Tensor:
        down, right = torch.randint(-4, 5, (2,), generator=generator).tolist()
        augmented = _augment(images[batch].roll((down, right), (2, 3)), 0.4, 0.08, generator)
        return functional.normalize(head(network.backbone(augmented).mean((2, 3))))

    for _ in range(steps):
        batch = torch.randint(0, len(images), (96,), generator=generator)
        loss = functional.cross_entropy(view(batch) @ view(batch).T / 0.1, torch.arange(len(batch)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
        parts = [functional.adaptive_avg_pool2d(network.backbone(batch), 2).flatten(1) for batch in batches]
    features = torch.cat(parts)
    return functional.normalize(features - features.mean(dim=0)).numpy()
