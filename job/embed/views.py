"""Augmented views of an image, with random numbers that depend on the seed, the epoch and the image alone.

They are the augmentations of lightly's `SimCLRTransform` with the same probabilities and ranges. That one draws from
global generators, so its views depend on the order in which threads make them. Here any thread may make any view.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.ImageFilter
from torchvision.transforms import functional

_MAX_ASPECT = 4 / 3
_ATTEMPTS = 10  # to find a crop of the drawn shape inside the image
_FLIP, _JITTER, _GREY, _BLUR = 0.5, 0.8, 0.2, 0.5  # probabilities
_BRIGHTNESS = _CONTRAST = _SATURATION = 0.8
_HUE = 0.2
_SIGMAS = 0.1, 2.0  # of the blur, in pixels of the view
_NUM_JITTERS = 4


@dataclass(frozen=True)
class Augmentation:
    """How views differ from their image.

    Attributes:
        side: Side of the square view, in pixels.
        min_scale: Smallest share of the image's area in a view, 0 to 1.
        colour_strength: Strength of the colour jitter.
    """

    side: int
    min_scale: float
    colour_strength: float


def make_pair(image: PIL.Image.Image, augmentation: Augmentation, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Makes two views of an image.

    Args:
        image: An RGB image.
        augmentation: How views differ from it.
        seed: Seed of the two views.

    Returns:
        Shape (2, 3, side, side), RGB.
    """
    generator = np.random.default_rng(seed)
    views = [np.asarray(_make_view(image, augmentation, generator)) for _ in range(2)]
    return np.stack(views).transpose(0, 3, 1, 2)


def _make_view(image: PIL.Image.Image, augmentation: Augmentation, generator: np.random.Generator) -> PIL.Image.Image:
    box = draw_crop(image.size, augmentation.min_scale, generator)
    view = image.crop(box).resize((augmentation.side, augmentation.side), PIL.Image.Resampling.BILINEAR)
    if generator.random() < _FLIP:
        view = view.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    if generator.random() < _JITTER:
        view = _jitter(view, augmentation.colour_strength, generator)
    if generator.random() < _GREY:
        view = view.convert("L").convert("RGB")
    if generator.random() < _BLUR:
        view = view.filter(PIL.ImageFilter.GaussianBlur(generator.uniform(*_SIGMAS)))
    return view


def draw_crop(size: tuple[int, int], min_scale: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a part of an image: its share of the area is uniform, the logarithm of its aspect ratio, too.

    If no drawn shape fits into the image, it is the largest one in the middle of an allowed aspect ratio.

    Args:
        size: Width and height of the image.
        min_scale: Smallest share of the area.
        generator: Random numbers.

    Returns:
        Left, top, right and bottom.
    """
    width, height = size
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(min_scale, 1)
        aspect = math.exp(generator.uniform(-math.log(_MAX_ASPECT), math.log(_MAX_ASPECT)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(generator.integers(width - across + 1)), int(generator.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, max(1, round(height * _MAX_ASPECT)))
    down = min(height, max(1, round(width * _MAX_ASPECT)))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _jitter(image: PIL.Image.Image, strength: float, generator: np.random.Generator) -> PIL.Image.Image:
    factors = [
        generator.uniform(max(0.0, 1 - strength * amount), 1 + strength * amount)
        for amount in (_BRIGHTNESS, _CONTRAST, _SATURATION)
    ]
    hue = generator.uniform(-strength * _HUE, strength * _HUE)
    for kind in generator.permutation(_NUM_JITTERS).tolist():
        if kind == 0:
            image = functional.adjust_brightness(image, factors[0])
        elif kind == 1:
            image = functional.adjust_contrast(image, factors[1])
        elif kind == 2:
            image = functional.adjust_saturation(image, factors[2])
        else:
            image = functional.adjust_hue(image, hue)
    return image
