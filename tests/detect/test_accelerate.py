"""Folded batch norms and the batched preprocessing against the model as it is."""

from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import nn

from job.detect.accelerate import Acceleration, FoldedNorms
from job.detect.model import Detector
from job.detect.pyramid import InPlaceSums


def randomise_norms(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            shape = module.weight.shape
            module.weight.data = torch.rand(shape, generator=generator) + 0.5
            module.bias.data = torch.randn(shape, generator=generator) * 0.1
            module.running_mean = torch.randn(shape, generator=generator) * 0.1
            module.running_var = torch.rand(shape, generator=generator) + 0.5


def zoo(name: str) -> Any:
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    randomise_norms(model)
    return model


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)) for module in model.modules())


@torch.inference_mode()
def test_folded_norms_change_features_by_rounding_only() -> None:
    model = zoo("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")
    images = torch.rand(1, 3, 128, 160) * 255 - 128
    plain, norms = model.backbone(images), count_norms(model)
    folded = FoldedNorms(model)
    fast = model.backbone(images)
    assert (norms, count_norms(model)) == (53, 0)
    for level, features in plain.items():
        # Measured: at most 1.9e-6 of the largest value, in three runs.
        assert (fast[level] - features).abs().max() < 1e-5 * features.abs().max(), level
    folded.close()
    assert count_norms(model) == 53
    assert all(torch.equal(features, plain[level]) for level, features in model.backbone(images).items())


@torch.inference_mode()
@pytest.mark.parametrize("name", ["faster_rcnn_R_50_FPN_3x", "retinanet_R_50_FPN_3x"])
@pytest.mark.parametrize(("fuse", "channels_last"), [("sum", True), ("avg", False)])
def test_pyramids_add_the_same_numbers_in_place(name: str, fuse: str, channels_last: bool) -> None:
    model = zoo(f"COCO-Detection/{name}.yaml")
    model.backbone._fuse_type = fuse
    images = torch.rand(2, 3, 128, 192) * 255 - 128
    images = images.contiguous(memory_format=torch.channels_last) if channels_last else images
    plain = model.backbone(images)
    pyramids = InPlaceSums(model)
    fast = model.backbone(images)
    assert plain.keys() == fast.keys() and all(torch.equal(plain[level], fast[level]) for level in plain)
    with torch.autocast("cpu", torch.bfloat16):
        half = model.backbone(images)
    assert {level.dtype for level in half.values()} == {torch.bfloat16}
    for level, features in plain.items():
        assert (half[level].float() - features).abs().max() < 0.03 * features.abs().max(), level
    pyramids.close()
    assert "forward" not in vars(model.backbone)


@torch.inference_mode()
def test_folded_norms_of_the_demo_model(demo_detector: Detector) -> None:
    model: Any = demo_detector.model
    images = torch.rand(1, 3, 96, 128)
    plain, state = model.predict(images), {name: value.clone() for name, value in model.state_dict().items()}
    folded = FoldedNorms(model)
    fast = model.predict(images)
    assert count_norms(model) == 0
    folded.close()
    assert count_norms(model) > 10
    for before, after in zip(plain, fast, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@torch.inference_mode()
def test_what_cannot_be_folded_is_left() -> None:
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(
        nn.Sequential(shared, nn.BatchNorm2d(3)),
        nn.Sequential(shared, nn.BatchNorm2d(3)),  # the same convolution, another norm
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        Conv2d(4, 5, 1, norm=nn.BatchNorm2d(5), activation=nn.ReLU()),  # the norm comes before the activation
    ).eval()
    randomise_norms(model)
    images = torch.randn(2, 3, 8, 8)
    plain = model(images)
    FoldedNorms(model)
    assert count_norms(model) == 3
    torch.testing.assert_close(model(images), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "COCO-Detection/retinanet_R_50_FPN_3x.yaml"]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_preprocessed_as_its_images_are(name: str, channels_last: bool) -> None:
    model = zoo(name)
    batch = torch.randint(0, 256, (3, 3, 75, 133), dtype=torch.uint8)
    if channels_last:
        batch = batch.contiguous(memory_format=torch.channels_last)
    inputs = [{"image": image} for image in batch]
    expected: ImageList = model.preprocess_image(inputs)
    acceleration = Acceleration(model, torch.float32)
    acceleration.expect(batch)
    images: ImageList = model.preprocess_image(inputs)
    acceleration.close()
    assert torch.equal(images.tensor, expected.tensor)
    assert images.image_sizes == expected.image_sizes
    assert images.tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("dtype", "half"), [(torch.float32, False), (torch.float16, True), (torch.bfloat16, True)])
def test_cudnn_is_deterministic_and_only_half_precision_may_round_to_tf32(dtype: torch.dtype, half: bool) -> None:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.deterministic
    acceleration = Acceleration(nn.Identity(), dtype)
    assert (cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark) == (half, True, False)
    acceleration.close()
    assert (cudnn.allow_tf32, cudnn.deterministic) == before
