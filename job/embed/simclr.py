"""SimCLR on the pool's own thumbnails: lightly's loss, projection head and augmentations, our own loop.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020. Two augmented views of an
image should have near embeddings, views of different images distant ones. The encoder is a copy of the detector's
backbone where it has one, and a ResNet-18 from random weights elsewhere.

The images are decoded thumbnails in memory. One thread makes the views, so that their random numbers come in one order
and the same seed gives the same embeddings.
"""

import copy
import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import torch
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from torch import nn

from job.detect.features import backbone_of, deepest
from job.detect.model import Detector
from job.prefetch import prefetch
from job.progress import Progress

logger = logging.getLogger(__name__)

_TEMPERATURE = 0.5
_MOMENTUM = 0.9
_WEIGHT_DECAY = 1e-5


@dataclass(frozen=True)
class Recipe:
    """How to train; no setting that ``benchmarks/embedding.py --sweep`` tried was better by more than 0.002.

    Attributes:
        input_size: Side, in pixels, of the square views.
        learning_rate: Of SGD, at the start; it falls to 0 along a cosine.
        min_scale: Smallest share of an image's area in a view.
        colour_strength: Of the colour jitter.
    """

    input_size: int = 128
    learning_rate: float = 0.01
    min_scale: float = 0.2
    colour_strength: float = 0.5

    @property
    def augmentation(self) -> SimCLRTransform:
        """From an RGB image to two views with values in [0, 1]; the encoder normalises them itself."""
        return SimCLRTransform(
            input_size=self.input_size, cj_strength=self.colour_strength, min_scale=self.min_scale, normalize=None
        )


DEFAULT = Recipe()


class Encoder(nn.Module):
    """From RGB images with values in [0, 1] to embeddings: a backbone, averaged over its deepest feature map.

    Args:
        backbone: From (N, 3, H, W) to one feature map, or to a dict of them.
        mean: Per channel, on the scale 0 to 255, in the order that the backbone wants.
        std: Likewise.
        channels: That order, ``RGB`` or ``BGR``.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, mean: torch.Tensor, std: torch.Tensor, channels: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.flip = channels == "BGR"
        self.register_buffer("mean", mean.reshape(1, 3, 1, 1).clone())
        self.register_buffer("std", std.reshape(1, 3, 1, 1).clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in [0, 1], RGB → (N, D)."""
        if self.flip:
            images = images.flip(1)
        return deepest(self.backbone((images * 255 - self.mean) / self.std)).mean(dim=(-2, -1))


def encoder_of(detector: Detector) -> Encoder:
    """The encoder that training starts from: a copy of the detector's backbone, or `random_encoder`."""
    backbone = backbone_of(detector.model)
    if backbone is None:
        logger.warning("The detector has no backbone to start from: the embedding is trained from random weights.")
        return random_encoder().to(detector.device)
    backbone = copy.deepcopy(backbone)
    backbone._forward_hooks.clear()  # the copy is not to report its features
    model: Any = detector.model  # every meta-architecture has the two buffers
    return Encoder(backbone, model.pixel_mean, model.pixel_std, detector.channels).to(detector.device)


def random_encoder() -> Encoder:
    """ResNet-18 of random weights without its classifier."""
    resnet = torchvision.models.resnet18(weights=None)
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return Encoder(nn.Sequential(*list(resnet.children())[:-2]), mean, std, "RGB")


def train(
    encoder: Encoder,
    images: Sequence[PIL.Image.Image],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    recipe: Recipe = DEFAULT,
) -> list[float]:
    """Trains an encoder in place.

    Args:
        encoder: The encoder, on its device.
        images: RGB thumbnails.
        epochs: Passes over the images; 0 does nothing.
        batch_size: Images in a step. The last, incomplete batch of an epoch is left out, unless it is the only one.
        seed: Of the head's weights, the order and the augmentations.
        dtype: Type to compute in.
        recipe: How.

    Returns:
        The mean loss of each epoch.
    """
    batch_size = min(batch_size, len(images))
    if epochs == 0 or batch_size < 2:  # one image has no other to be told from
        return []
    device = next(encoder.parameters()).device
    _seed(seed)
    size = encoder(torch.zeros(1, 3, recipe.input_size, recipe.input_size, device=device)).shape[1]
    head = SimCLRProjectionHead(size, size, 128).to(device)
    criterion = NTXentLoss(temperature=_TEMPERATURE)
    trained = [each for each in itertools.chain(encoder.parameters(), head.parameters()) if each.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=recipe.learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    steps = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    orders = _batches(len(images), batch_size, epochs, seed)
    augmentation = recipe.augmentation
    # Gradients of half precision may be too small for its range; of bfloat16 they are not.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    losses: list[float] = []
    encoder.train()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="views") as pool,
        Progress("Training the embedding", epochs, "epoch") as progress,
    ):
        batches = prefetch(pool, lambda rows: views(images, rows, augmentation), orders, ahead=4)
        for step, both in enumerate(batches, start=1):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                first, second = head(encoder(both.to(device))).chunk(2)
            loss = criterion(first.float(), second.float())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            losses.append(loss.item())
            if step % steps == 0:
                progress.add()
    encoder.eval()
    return [float(each) for each in np.array(losses).reshape(epochs, steps).mean(axis=1)]


def embed(
    encoder: Encoder, images: Sequence[PIL.Image.Image], *, batch_size: int, recipe: Recipe = DEFAULT
) -> npt.NDArray[np.float32]:
    """Embeds images.

    Args:
        encoder: The encoder, on its device.
        images: RGB thumbnails; each is resized to a square.
        batch_size: Images in a forward pass.
        recipe: Says how large that square is.

    Returns:
        (images, D).
    """
    device = next(encoder.parameters()).device
    encoder.eval()
    square = (recipe.input_size, recipe.input_size)
    results = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            squares = [each.resize(square, PIL.Image.Resampling.BILINEAR) for each in batch]
            tensor = torch.stack([_to_tensor(each) for each in squares])
            results.append(encoder(tensor.to(device)).float().cpu().numpy())
    return np.concatenate(results)


def _batches(count: int, batch_size: int, epochs: int, seed: int) -> Iterator[list[int]]:
    generator = np.random.default_rng(seed)  # its own, since another thread draws from the global ones
    for _ in range(epochs):
        order = generator.permutation(count).tolist()
        for start in range(0, count - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def views(images: Sequence[PIL.Image.Image], rows: Sequence[int], augmentation: SimCLRTransform) -> torch.Tensor:
    """Two augmented views of each image: (2 * rows, 3, S, S), all first views before all second ones."""
    pairs = [augmentation(images[row]) for row in rows]
    return torch.stack([pair[view] for view in (0, 1) for pair in pairs])


def _to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255


def _seed(seed: int) -> None:
    """The augmentations draw from all three."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
