"""A small street for `benchmarks.quality`: signs on frames of real video, as the demo's frozen detector sees them.

Images are crops of the demo's three clips with up to eight signs, and a sign shows one of ten digits. Nothing is
downloaded beyond the demo: the digits come with scikit-learn, and those of the test appear in no pool. The images pass
once through the backbone of the demo's YOLOv3-tiny with its COCO weights. What it makes of them is kept in a file.
"""

import fcntl
import hashlib
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch.nn import functional

from demo import fetch
from job.detect.weights import read_darknet
from job.detect.yolo import TinyYolo

CACHE = fetch.CACHE.parent / "benchmarks"
CLASSES = 10
CONDITIONS = ("clear", "dusk", "fog")
SIZE, STRIDE = 192, 16  # side of an image in pixels; stride of the features that the head reads
CELLS = SIZE // STRIDE
FEATURES = 64  # principal components of a cell's 384 values
MAX_SIGNS = 8
# Shares of images with 0, 1, ... signs: some empty, few crowded.
_SIGNS = np.array([0.12, 0.26, 0.2, 0.14, 0.1, 0.07, 0.05, 0.04, 0.02])
_CLIPS = (0.6, 0.2, 0.2)  # the street, an animated film, a person in a car
_FRAME_SIDE = 260  # the shorter side of a frame, of which an image shows 45 to 100 %
_TRAINING_DIGITS = 1200  # of scikit-learn's 1,797
_MAX_BURST = 60
_BATCH = 64
_SAMPLE = 600  # images from which the principal components are computed
_SEED = 11


class Part(NamedTuple):
    """What a part of the street is like.

    Attributes:
        scenes: Number of scenes.
        tail: How rare the rare classes are: the frequency of the k-th class is proportional to 1 / k ** tail.
        conditions: Shares of clear images, dusk and fog.
        bursts: Whether a scene is a run of consecutive frames, or one image.
        test: Whether it has the digits of the test.
    """

    scenes: int
    tail: float
    conditions: tuple[float, float, float]
    bursts: bool
    test: bool


_RARE, _ALIKE = (0.7, 0.2, 0.1), (0.34, 0.33, 0.33)
PARTS = {
    "video": Part(600, 1.3, _RARE, bursts=True, test=False),
    "curated": Part(4000, 0.0, _ALIKE, bursts=False, test=False),
    "test": Part(700, 0.0, _ALIKE, bursts=False, test=True),
}


@dataclass(frozen=True)
class Street:
    """All images, as numbers.

    Attributes:
        part: (n,) position in `PARTS`.
        scene: (n,) number of the scene.
        condition: (n,) position in `CONDITIONS`.
        boxes: (n, 8, 4) left, top, right, bottom of the signs in pixels, padded with zeros.
        classes: (n, 8) digits, padded with -1.
        embeddings: (n, 1024) the product's embedding: the mean of the deepest feature map.
        features: (n, 144, 64) float16 features of the cells, row by row.
    """

    part: Any
    scene: Any
    condition: Any
    boxes: Any
    classes: Any
    embeddings: Any
    features: Any

    @property
    def signs(self) -> Any:
        """(n,) number of signs."""
        return (self.classes >= 0).sum(axis=1)


class _Sign(NamedTuple):
    digit: Any
    label: int
    left: float
    top: float
    width: float
    height: float
    ink: Any
    plate: Any
    opacity: float


class _Scene(NamedTuple):
    clip: int
    frame: int
    side: int
    left: int
    top: int
    mirrored: bool
    condition: int
    signs: list[_Sign]
    speed: Any
    length: int


def load(cache: Path = CACHE) -> Street:
    """Reads the street from its file, and makes it first if there is none or this module has changed.

    Of several processes, one makes it, and the others wait.
    """
    identity = hashlib.sha256(Path(__file__).read_bytes() + np.__version__.encode() + torch.__version__.encode())
    folder = cache / f"street-{identity.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "features.npy").is_file():
            fetch.fetch()
            made = make(PARTS)
            others = {name: value for name, value in vars(made).items() if name != "features"}
            np.savez(folder / "others.npz", **others)
            np.save(folder / "unfinished.npy", made.features)
            (folder / "unfinished.npy").replace(folder / "features.npy")
    with np.load(folder / "others.npz") as file:
        others = dict(file)
    return Street(**others, features=np.load(folder / "features.npy", mmap_mode="r"))


def make(parts: dict[str, Part]) -> Street:
    """Draws all images, and runs the backbone over them, with progress on stderr."""
    clips, digits, backbone = _read_clips(), load_digits(), _load_backbone()
    images: list[Any] = []
    columns: list[tuple[int, int, int, Any, Any]] = []
    cells: list[Any] = []
    embeddings: list[Any] = []
    numbers = itertools.count()

    def run() -> None:
        shallow, deep = _run(backbone, np.stack(images))
        cells.append(shallow)
        embeddings.append(deep)
        images.clear()
        print(f"\r{len(columns):,} images", end="", file=sys.stderr, flush=True)

    for position, part in enumerate(parts.values()):
        for _ in range(part.scenes):
            number = next(numbers)
            rng = np.random.default_rng([_SEED, number])
            scene = _arrange(rng, part, clips, digits)
            for image, boxes in _draw(rng, scene, clips):
                padding = MAX_SIGNS - len(boxes)
                labels = np.array([sign.label for sign in scene.signs] + [-1] * padding, np.int8)
                images.append(image)
                columns.append((position, number, scene.condition, np.pad(boxes, ((0, padding), (0, 0))), labels))
                if len(images) == _BATCH:
                    run()
    if images:
        run()
    print(file=sys.stderr)
    part_column, scene_column, condition, boxes, classes = (np.array(column) for column in zip(*columns, strict=True))
    features = _reduce(np.concatenate(cells))
    return Street(part_column, scene_column, condition, boxes, classes, np.concatenate(embeddings), features)


def _read_clips() -> list[list[Any]]:
    clips = []
    for path in (fetch.VIDEO, *fetch.MORE_VIDEOS):
        capture, frames = cv2.VideoCapture(str(path)), []
        while (read := capture.read())[0]:
            scale = _FRAME_SIDE / min(read[1].shape[:2])
            frames.append(cv2.resize(read[1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        capture.release()
        clips.append(frames)
    return clips


def _arrange(rng: np.random.Generator, part: Part, clips: list[list[Any]], digits: Any) -> _Scene:
    """Draws a scene: a crop of a clip, its condition, and signs that do not overlap."""
    clip = int(rng.choice(len(clips), p=_CLIPS))
    height, width = clips[clip][0].shape[:2]
    side = int(rng.uniform(0.45, 1) * min(height, width))
    frequency = 1 / np.arange(1, CLASSES + 1) ** part.tail
    signs: list[_Sign] = []
    for label in rng.choice(CLASSES, rng.choice(len(_SIGNS), p=_SIGNS), p=frequency / frequency.sum()):
        number = int(rng.choice(_list_digits(digits.target, part.test)[label]))
        glyph = digits.images[number] / 16
        glyph = glyph[:, np.flatnonzero(glyph.max(axis=0) > 0.3)].astype(np.float32)
        for _ in range(20):  # tries to find a free place
            tall = rng.uniform(32, 70)
            wide = np.clip(tall * glyph.shape[1] / 8, 0.55 * tall, 1.1 * tall)
            left, top = rng.uniform(0, SIZE - wide), rng.uniform(0, SIZE - tall)
            apart = [
                left + wide < sign.left
                or sign.left + sign.width < left
                or top + tall < sign.top
                or sign.top + sign.height < top
                for sign in signs
            ]
            if all(apart):
                signs.append(_Sign(glyph, int(label), left, top, wide, tall, *_mix_colours(rng), rng.uniform(0.7, 1)))
                break
    return _Scene(
        clip=clip,
        frame=int(rng.integers(len(clips[clip]))),
        side=side,
        left=int(rng.integers(width - side + 1)),
        top=int(rng.integers(height - side + 1)),
        mirrored=bool(rng.random() < 0.5),
        condition=int(rng.choice(len(CONDITIONS), p=part.conditions)),
        signs=signs,
        speed=rng.normal(0, 1.2, 2),
        length=int(min(_MAX_BURST, 1 + 3 * rng.pareto(1.0))) if part.bursts else 1,
    )


def _list_digits(labels: Any, test: bool) -> list[Any]:
    allowed = (np.arange(len(labels)) >= _TRAINING_DIGITS) == test
    return [np.flatnonzero(allowed & (labels == label)) for label in range(CLASSES)]


def _mix_colours(rng: np.random.Generator) -> tuple[Any, Any]:
    """Colours of a digit and its plate that differ in brightness."""
    while True:
        ink, plate = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
        if abs(ink.mean() - plate.mean()) >= 90:
            return ink, plate


def _draw(rng: np.random.Generator, scene: _Scene, clips: list[list[Any]]) -> Iterator[tuple[Any, Any]]:
    """Yields the images of a scene, (192, 192, 3) in BGR, with their boxes (signs, 4)."""
    frames = clips[scene.clip]
    for step in range(scene.length):
        frame = frames[(scene.frame + step) % len(frames)]
        crop = frame[scene.top : scene.top + scene.side, scene.left : scene.left + scene.side]
        crop = np.ascontiguousarray(crop[:, ::-1] if scene.mirrored else crop)
        image = cv2.resize(crop, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
        boxes = np.zeros((len(scene.signs), 4), np.float32)
        for row, sign in enumerate(scene.signs):
            moved = np.array([sign.left, sign.top])
            if scene.length > 1:
                moved += scene.speed * step * (1, 0.4) + rng.normal(0, 0.7, 2)
            left, top = np.clip(moved, 0, (SIZE - sign.width, SIZE - sign.height)).astype(int)
            width, height = int(sign.width), int(sign.height)
            _paste(sign, image[top : top + height, left : left + width])
            boxes[row] = left, top, left + width, top + height
        if CONDITIONS[scene.condition] == "dusk":
            image = image * np.array([0.5, 0.36, 0.32], np.float32) + rng.normal(0, 9, image.shape)
        elif CONDITIONS[scene.condition] == "fog":
            image = cv2.GaussianBlur(image, (0, 0), 1.6) * 0.45 + 105
        image = image + rng.normal(0, 3, image.shape)
        yield np.clip(image, 0, 255).astype(np.uint8), boxes


def _paste(sign: _Sign, window: Any) -> None:
    height, width = window.shape[:2]
    inner = (max(6, min(width - 8, round((height - 8) * sign.digit.shape[1] / 8))), height - 8)
    cover = np.zeros((height, width), np.float32)
    start = (width - inner[0]) // 2
    cover[4 : height - 4, start : start + inner[0]] = cv2.resize(sign.digit, inner, interpolation=cv2.INTER_CUBIC)
    cover = np.clip(cover * 1.4, 0, 1)[..., None]
    window[:] = window * (1 - sign.opacity) + sign.opacity * (sign.plate * (1 - cover) + sign.ink * cover)


def _load_backbone() -> Any:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(fetch.__file__).with_name("yolov3-tiny.yaml")))
    cfg.MODEL.DEVICE = "cpu"
    model = TinyYolo(cfg)
    model.load_state_dict(read_darknet(fetch.WEIGHTS, model.darknet_layout()), strict=False)
    return model.eval().backbone


@torch.inference_mode()
def _run(backbone: Any, images: Any) -> tuple[Any, Any]:
    """(n, 192, 192, 3) BGR → (n, 384, 12, 12) float16 of the cells, and (n, 1024) embeddings."""
    kept: list[torch.Tensor] = []
    hook = backbone.shallow[6].register_forward_hook(lambda module, inputs, output: kept.append(output))
    pixels = torch.from_numpy(images[..., ::-1].copy()).permute(0, 3, 1, 2).float() / 255
    features = backbone(pixels)
    hook.remove()
    cells = torch.cat([features["shallow"], functional.avg_pool2d(kept[0], 2)], dim=1)
    return cells.half().numpy(), features["deep"].mean(dim=(2, 3)).numpy()


def _reduce(cells: Any) -> Any:
    """(n, 384, 12, 12) → (n, 144, 64) principal components, each divided by the square root of its deviation."""
    count, dimension = cells.shape[:2]
    chosen = np.random.default_rng(_SEED).choice(count, min(_SAMPLE, count), replace=False)
    sample = cells[chosen].transpose(0, 2, 3, 1).reshape(-1, dimension).astype(np.float32)
    mean = sample.mean(axis=0)
    variance, vectors = np.linalg.eigh(np.cov((sample - mean).T))
    variance, vectors = variance[::-1][:FEATURES], vectors[:, ::-1][:, :FEATURES]
    projection = (vectors / variance**0.25 / (variance**0.5).mean() ** 0.5).astype(np.float32)
    result = np.empty((count, CELLS * CELLS, FEATURES), np.float16)
    for start in range(0, count, 512):
        block = cells[start : start + 512].transpose(0, 2, 3, 1).reshape(-1, dimension).astype(np.float32)
        result[start : start + 512] = ((block - mean) @ projection).reshape(-1, CELLS * CELLS, FEATURES)
    return result
