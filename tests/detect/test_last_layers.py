"""The last layers compute in float32 while the rest of the model runs in half precision."""

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import ROIAlign
from torch import nn

from job.detect import last_layers, probabilities
from tests.detect.test_probabilities import batch, network

KINDS = ["faster", "cascade", "sigmoid", "retinanet", "fcos"]


def run(net: Any, *, half: bool) -> list[Any]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        return [each["instances"] for each in net(batch(1))]


@pytest.mark.parametrize("name", KINDS)
def test_results_are_float32_in_half_precision(name: str) -> None:
    net = network(name)
    probabilities.attach(net)
    assert {found.scores.dtype for found in run(net, half=True)} == {torch.bfloat16}  # so the test can fail
    last_layers.keep_in_float32(net)
    for found in run(net, half=True):
        assert len(found) > 10
        assert found.scores.dtype == found.class_probabilities.dtype == torch.float32
        assert (found.class_probabilities.sum(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_nothing_changes_in_single_precision(name: str) -> None:
    plain = network(name)
    probabilities.attach(plain)
    net = copy.deepcopy(plain)
    last_layers.keep_in_float32(net)
    for expected, found in zip(run(plain, half=False), run(net, half=False), strict=True):
        assert torch.equal(expected.pred_boxes.tensor, found.pred_boxes.tensor)
        assert torch.equal(expected.class_probabilities, found.class_probabilities)


@pytest.mark.parametrize("name", ["faster", "retinanet", "fcos"])
def test_outputs_are_closer_to_single_precision(name: str) -> None:
    net = network(name)
    with torch.inference_mode():
        maps = list(net.backbone(net.preprocess_image(batch(1)).tensor).values())
    heads = [net.head] if hasattr(net, "head") else [net.proposal_generator.rpn_head]
    inputs: list[Any] = [maps]
    if hasattr(net, "roi_heads"):
        heads.append(net.roi_heads.box_predictor)
        inputs.append(torch.rand(100, net.roi_heads.box_predictor.cls_score.in_features))

    def measure(*, half: bool) -> list[torch.Tensor]:
        """Returns all outputs of the heads."""
        outputs: list[torch.Tensor] = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            for head, given in zip(heads, inputs, strict=True):
                for output in head(given):
                    outputs += output if isinstance(output, (list, tuple)) else [output]
        return outputs

    truth, before = measure(half=False), measure(half=True)
    last_layers.keep_in_float32(net)
    after = measure(half=True)
    assert len(truth) > 2
    for exact, rounded, kept in zip(truth, before, after, strict=True):
        assert rounded.dtype == torch.bfloat16 and kept.dtype == torch.float32
        assert (kept - exact).abs().mean() < (rounded - exact).abs().mean()
    different, tied = (
        {value for level in levels[: len(maps)] for value in level.flatten().tolist()} for levels in (after, before)
    )
    assert len(different) > 4 * len(tied)


def test_corners_of_regions_are_not_rounded() -> None:
    # A map whose features are the coordinates of its pixels, at stride 8.
    rows, columns = 100, 168
    maps = torch.stack([torch.arange(columns).expand(rows, -1), torch.arange(rows)[:, None].expand(-1, columns)])
    net = nn.Sequential(ROIAlign((1, 1), 1 / 8, 0, aligned=True))
    regions = torch.tensor([[0.0, 1203.0, 602.5, 1211.0, 610.5]])
    center = torch.tensor([1207.0, 606.5]) / 8 - 0.5
    half = maps[None].bfloat16()  # all exact
    with torch.autocast("cpu", torch.bfloat16):
        assert (net[0](half, regions).flatten() - center).abs().max() > 0.3
        last_layers.keep_in_float32(net)
        pooled = net[0](half, regions)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.flatten(), center.bfloat16())
    torch.testing.assert_close(net[0](maps[None].float(), regions).flatten(), center)


def test_layers_stay_the_model_s_own() -> None:
    net = network("faster")
    state = copy.deepcopy(net.state_dict())
    last_layers.keep_in_float32(net)
    last_layers.keep_in_float32(net)
    assert net.state_dict().keys() == state.keys()
    assert type(net.roi_heads.box_predictor.cls_score) is nn.Linear
    # A copy computes with its own weights.
    copied = copy.deepcopy(net).roi_heads.box_predictor.cls_score
    copied.weight.data.zero_()
    assert torch.equal(copied(torch.ones(1, copied.in_features))[0], copied.bias)
