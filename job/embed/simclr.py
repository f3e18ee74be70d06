"""Trains SimCLR on the thumbnails of the pool, with lightly's loss and projection head.

Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020: two augmented views of an
image should have similar embeddings, views of different images dissimilar ones. The encoder is a copy of the detector's
backbone or, if the detector has none, a ResNet-18 with random weights.

Threads make the views, each with a seed of its own, so the same seed gives the same embeddings. After each epoch the
state of the training can be kept, and a later start continues from it.
"""

import copy
import itertools
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
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
from torch import nn

from job import limits
from job.detect.features import find_backbone, find_deepest_map
from job.detect.model import Detector
from job.embed.checkpoint import Checkpoint
from job.embed.views import Augmentation, make_pair
from job.names import quantify
from job.prefetch import prefetch
from job.progress import Progress
from job.spool import SpooledRows

logger = logging.getLogger(__name__)

_STEPS_UNTIL_FORECAST = 50
_MAX_THREADS = 16  # each has a batch of views in memory
_TEMPERATURE = 0.5
_MOMENTUM = 0.9
_WEIGHT_DECAY = 1e-5


@dataclass(frozen=True)
class SimCLRRecipe:
    """Hyperparameters. None that ``benchmarks/embedding.py --sweep`` tried raised shot purity by more than 0.002.

    Attributes:
        input_size: Side of the square views, in pixels.
        learning_rate: Initial learning rate of SGD; it falls to 0 along a cosine.
        min_scale: Smallest share of an image's area in a view, 0 to 1.
        colour_strength: Strength of the colour jitter.
    """

    input_size: int = 128
    learning_rate: float = 0.01
    min_scale: float = 0.2
    colour_strength: float = 0.5

    @property
    def augmentation(self) -> Augmentation:
        """How views differ from their image."""
        return Augmentation(self.input_size, self.min_scale, self.colour_strength)


DEFAULT_RECIPE = SimCLRRecipe()


class Encoder(nn.Module):
    """Embeds RGB images with values in [0, 1]: the mean over the deepest feature map of a backbone.

    Args:
        backbone: Turns (N, 3, H, W) into one feature map, or a dict of feature maps.
        mean: Mean per channel on the scale 0 to 255, in the backbone's channel order.
        std: Standard deviation per channel on the scale 0 to 255, in the backbone's channel order.
        channels: Channel order of the backbone's input, ``RGB`` or ``BGR``.
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
        """Turns (N, 3, H, W) RGB images with values in [0, 1] into (N, D) embeddings."""
        if self.flip:
            images = images.flip(1)
        return find_deepest_map(self.backbone((images * 255 - self.mean) / self.std)).mean(dim=(-2, -1))


def build_encoder(detector: Detector) -> Encoder:
    """Builds the encoder that training starts from: a copy of the detector's backbone, or a random encoder."""
    backbone = find_backbone(detector.model)
    if backbone is None:
        logger.warning("The detector has no backbone to start from: training the embedding from random weights.")
        return build_random_encoder().to(detector.device)
    backbone = copy.deepcopy(backbone)
    backbone._forward_hooks.clear()  # else the copy would call the hooks of the detector's `PooledFeature`
    model: Any = detector.model  # every meta-architecture has pixel_mean and pixel_std
    return Encoder(backbone, model.pixel_mean, model.pixel_std, detector.channels).to(detector.device)


def build_random_encoder() -> Encoder:
    """Builds a ResNet-18 with random weights and without its classifier."""
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
    max_images: int = sys.maxsize,
    max_steps: int = sys.maxsize,
    dtype: torch.dtype = torch.float32,
    recipe: SimCLRRecipe = DEFAULT_RECIPE,
    num_threads: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Trains an encoder in place.

    Args:
        encoder: The encoder, on its device.
        images: RGB thumbnails.
        epochs: Passes over the images; 0 skips the training.
        batch_size: Images per step. An incomplete last batch of an epoch is skipped, unless it is the only batch.
        seed: Seed of the head's weights, of the images' choice and order and of the views.
        max_images: Most images that are trained on; of more, so many are chosen at random.
        max_steps: Most steps, which may end the training before its last epoch.
        dtype: Floating-point type of the forward passes.
        recipe: The hyperparameters.
        num_threads: Threads that make the views, which do not depend on it; one for each core by default.
        checkpoint: Where the state is kept after each epoch, and where an earlier start left it; None to keep none.

    Returns:
        The mean loss of each epoch.
    """
    rows = choose_rows(len(images), max_images, seed)
    batch_size = min(batch_size, len(rows))
    if epochs == 0 or batch_size < 2:  # contrastive learning needs two images
        return []
    device = next(encoder.parameters()).device
    torch.manual_seed(seed)
    size = encoder(torch.zeros(1, 3, recipe.input_size, recipe.input_size, device=device)).shape[1]
    head = SimCLRProjectionHead(size, size, 128).to(device)
    criterion = NTXentLoss(temperature=_TEMPERATURE)
    parameters = itertools.chain(encoder.parameters(), head.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=recipe.learning_rate, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY)
    steps_in_epoch = len(rows) // batch_size
    steps = min(epochs * steps_in_epoch, max_steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    # Gradients may underflow in float16, but not in bfloat16.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    parts = {"encoder": encoder, "head": head, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    losses = _resume(checkpoint, parts, device)
    begun = len(losses)
    orders = itertools.islice(enumerate(_draw_batches(rows, batch_size, epochs, seed)), begun, steps)
    augmentation, num_threads = recipe.augmentation, num_threads or min(_MAX_THREADS, limits.count_cores())

    def prepare(item: tuple[int, list[int]]) -> torch.Tensor:
        step, batch = item
        return make_views(images, batch, augmentation, (seed, step // steps_in_epoch))

    encoder.train()
    with (
        ThreadPoolExecutor(num_threads, thread_name_prefix="views") as executor,
        Progress("Training the embedding", -(-steps // steps_in_epoch), "epoch") as progress,
    ):
        progress.add(begun // steps_in_epoch)
        start = time.monotonic()
        batches = prefetch(executor, prepare, orders, ahead=num_threads + 1)
        for step, views in enumerate(batches, start=begun + 1):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                first, second = head(encoder(views.to(device).float() / 255)).chunk(2)
            loss = criterion(first.float(), second.float())
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
            losses.append(loss.item())
            is_end = step % steps_in_epoch == 0 or step == steps
            if is_end:
                progress.add()
            if is_end and checkpoint is not None:
                checkpoint.write(_list_states(parts) | {"losses": losses})
            if step - begun == _STEPS_UNTIL_FORECAST < steps - begun:
                seconds = (time.monotonic() - start) / _STEPS_UNTIL_FORECAST * (steps - begun)
                logger.info(describe_duration(steps - begun, batch_size, seconds))
    encoder.eval()
    return [float(np.mean(losses[first : first + steps_in_epoch])) for first in range(0, steps, steps_in_epoch)]


def _list_states(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The states of what is trained, and of the generator, which layers of the backbone may draw from."""
    return {name: part.state_dict() for name, part in parts.items()} | {"generator": torch.get_rng_state()}


def _resume(checkpoint: Checkpoint | None, parts: Mapping[str, Any], device: torch.device) -> list[float]:
    """Continues an earlier start; returns the losses of its steps."""
    state = None if checkpoint is None else checkpoint.read(device)
    if state is None:
        return []
    for name, part in parts.items():
        part.load_state_dict(state[name])
    torch.set_rng_state(state["generator"].cpu())
    losses: list[float] = state["losses"]
    logger.info("The training of the embedding continues after %s.", quantify(len(losses), "step"))
    return losses


def describe_duration(steps: int, batch_size: int, seconds: float) -> str:
    """Says how long the training will take.

    Args:
        steps: Number of steps of the whole training.
        batch_size: Images per step.
        seconds: Expected duration of the whole training.
    """
    duration = quantify(round(seconds / 60), "minute") if seconds < 2 * 3600 else f"{seconds / 3600:.1f} hours"
    return (
        f"Training the embedding will take about {duration}: {steps:,} steps of {batch_size} images. CORAL_SSL_EPOCHS "
        "and CORAL_SSL_MAX_STEPS make it shorter."
    )


def embed(
    encoder: Encoder, images: Sequence[PIL.Image.Image], *, batch_size: int, recipe: SimCLRRecipe = DEFAULT_RECIPE
) -> SpooledRows:
    """Embeds images.

    Args:
        encoder: The encoder, on its device.
        images: RGB thumbnails, at least one; each is resized to a square.
        batch_size: Images per forward pass.
        recipe: Its `input_size` is the side of the square.

    Returns:
        (images, D) embeddings, in a temporary file.

    Raises:
        ServiceUnavailable: If there is no room for the temporary file.
    """
    device = next(encoder.parameters()).device
    encoder.eval()
    square = (recipe.input_size, recipe.input_size)
    result: SpooledRows | None = None
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            rows = range(start, min(start + batch_size, len(images)))
            squares = [images[row].resize(square, PIL.Image.Resampling.BILINEAR) for row in rows]
            tensor = torch.stack([_to_tensor(image) for image in squares])
            vectors = encoder(tensor.to(device)).float().cpu().numpy()
            result = result or SpooledRows((len(images), vectors.shape[1]))
            result.write(start, vectors)
    return result or SpooledRows((0, 1))


def choose_rows(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """Chooses the images to train on: all, or as many as allowed, at random and in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _draw_batches(rows: npt.NDArray[np.int64], batch_size: int, epochs: int, seed: int) -> Iterator[list[int]]:
    generator = np.random.default_rng(seed)  # not the global one, which another thread draws from
    for _ in range(epochs):
        order = rows[generator.permutation(len(rows))].tolist()
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def make_views(
    images: Sequence[PIL.Image.Image], rows: Sequence[int], augmentation: Augmentation, seed: tuple[int, ...]
) -> torch.Tensor:
    """Makes two augmented views of each image: (2 * rows, 3, S, S) bytes, all first views before all second views.

    Args:
        images: RGB images.
        rows: Which of them.
        augmentation: How views differ from their image.
        seed: Seed of these views; that of an image is followed by its row.
    """
    pairs = np.stack([make_pair(images[row], augmentation, (*seed, row)) for row in rows], axis=1)
    return torch.from_numpy(pairs.reshape(-1, *pairs.shape[2:]))


def _to_tensor(image: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255
