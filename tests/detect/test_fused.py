"""Fused convolutions against the model as it is. cuDNN's calls need a GPU: on a CPU torch's own calls stand in."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from job.detect.accelerate import FoldedNorms
from job.detect.fused import FusedReLU
from tests.detect.test_accelerate import zoo

MODELS = ["COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", "COCO-Detection/retinanet_R_50_FPN_3x.yaml"]


class StandIn:
    """cuDNN's calls by their definition.

    Attributes:
        calls: Number of calls.
    """

    def __init__(self) -> None:
        self.calls = 0

    def relu(self, x: Any, w: Any, b: Any, *geometry: Any) -> torch.Tensor:
        self.calls += 1
        return functional.relu(functional.conv2d(x, w, b, *geometry))

    def add_relu(self, x: Any, w: Any, z: Any, alpha: float, b: Any, *geometry: Any) -> torch.Tensor:
        self.calls += 1
        return functional.relu(functional.conv2d(x, w, b, *geometry) + alpha * z)


def run(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    features = model.backbone(images)
    if hasattr(model, "proposal_generator"):
        maps = [features[name] for name in model.proposal_generator.in_features]
        return [output for level in model.proposal_generator.rpn_head(maps) for output in level]
    return [output for level in model.head([features[name] for name in model.head_in_features]) for output in level]


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_fused_layers_compute_what_the_layers_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = zoo(name), torch.rand(1, 3, 64, 96) * 255 - 128
    norms = FoldedNorms(model)
    expected = run(model, images)
    stand_in = StandIn()
    monkeypatch.setattr(torch, "cudnn_convolution_relu", stand_in.relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", stand_in.add_relu)
    fused = FusedReLU(model, torch.float32)  # the same numbers, so that only the order of the layers can differ
    found = run(model, images)
    # Stem and 16 blocks of three; one layer of the RPN, or twice four of RetinaNet, on five levels.
    assert stand_in.calls == 1 + 16 * 3 + 5 * (1 if "rcnn" in name else 8)
    assert_close(found, expected)
    fused.close()
    assert all(torch.equal(one, other) for one, other in zip(run(model, images), expected, strict=True))
    norms.close()
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(isinstance(module, nn.Identity) for module in model.modules())


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@torch.inference_mode()
def test_without_cudnn_the_layers_run_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """A CPU has no cuDNN."""
    model, images = zoo(MODELS[0]), torch.rand(1, 3, 64, 96) * 255 - 128
    FoldedNorms(model)
    expected = run(model, images)
    FusedReLU(model, torch.float32)
    assert_close(run(model, images), expected)
    (record,) = caplog.records
    assert "cuDNN cannot fuse it" in record.message


@torch.inference_mode()
def test_a_norm_that_is_not_folded_stays() -> None:
    model, images = zoo(MODELS[0]), torch.rand(1, 3, 64, 96) * 255 - 128
    expected = run(model, images)
    FusedReLU(model, torch.float32)  # without `FoldedNorms`
    assert_close(run(model, images), expected)


@torch.inference_mode()
def test_the_relu_after_a_convolution_that_cannot_be_fused_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU())
    images = torch.randn(1, 3, 8, 8)
    expected = model(images)
    FusedReLU(model, torch.float32)
    assert torch.equal(model(images), expected)
