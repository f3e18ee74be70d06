"""How often the CPU waits for the GPU in one batch, counted without a GPU (`tests/detect/batched/waits.py`)."""

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch

from job.detect import batched
from job.detect.accelerate import Acceleration
from job.detect.model import Detector
from job.detect.projection import BOX_SIZE, Projection
from tests.detect.batched.test_batched import attached, made_of, network
from tests.detect.batched.waits import GpuTensor, Waits, move

SIZE = (96, 128)


def pack(found: batched.Found) -> torch.Tensor:
    """Packs what was found, with the features of boxes shortened, as `job.detect.forward` does."""
    return replace(found, features=Projection(BOX_SIZE).shorten(found.features)).pack()


def count_batched(name: str, counts: list[int]) -> list[Counter[str]]:
    """Counts the waits of batches, from the images on the GPU to the table on the CPU."""
    net: Any = attached(network(name))
    acceleration, result = Acceleration(net, torch.float32), []
    move(net)
    for count in counts:
        images, waits = GpuTensor(made_of(1, count)), Waits()
        acceleration.expect(images)
        with torch.no_grad(), waits:
            pack(batched.run(batched.detect(net, images, [SIZE] * count))).cpu()
        result.append(waits.counts)
    acceleration.close()
    return result


def count_plain(name: str, count: int) -> int:
    """Counts the waits of a batch in detectron2's own inference."""
    net = move(attached(network(name)))
    inputs = [{"image": GpuTensor(image)} for image in made_of(1, count)]
    waits = Waits()
    with torch.no_grad(), waits:
        net(inputs)
    return waits.counts.total()


@pytest.mark.parametrize(
    ("name", "most", "per_image_before"),
    [
        ("faster", 2, 22),
        ("mask", 2, 22),
        ("c4", 2, 22),
        ("sigmoid", 2, 22),
        ("cascade", 4, 23),
        ("retinanet", 1, 18),
        ("fcos", 1, 18),
    ],
)
def test_waits_do_not_grow_with_the_batch(name: str, most: int, per_image_before: int) -> None:
    one, eight = count_batched(name, [1, 8])
    assert one == eight == {"aten::_to_copy": most}
    # The count of detectron2 shows that the counter sees what it is for.
    assert count_plain(name, 3) - count_plain(name, 2) == per_image_before


def test_waits_of_the_demo_model(demo_detector: Detector) -> None:
    net = move(copy.deepcopy(demo_detector.model))
    counts = []
    for count in (1, 8):
        waits = Waits()
        with torch.no_grad(), waits:
            pack(batched.run(batched.detect(net, GpuTensor(made_of(1, count)), [SIZE] * count))).cpu()
        counts.append(waits.counts)
    assert counts == [{"aten::_to_copy": 1}] * 2


def test_results_of_the_counter_are_those_of_the_cpu() -> None:
    net, images = attached(network("faster")), made_of(2, 2)
    with torch.no_grad():
        expected = batched.run(batched.detect(net, images, [SIZE] * 2)).pack()
        with Waits():
            found = batched.run(batched.detect(move(net), GpuTensor(images), [SIZE] * 2)).pack().cpu()
    assert torch.equal(expected, found)


def test_what_counts_as_a_wait() -> None:
    values = GpuTensor(torch.arange(6.0))
    cases: dict[str, Any] = {
        "aten::_local_scalar_dense": lambda: values[0].item(),
        "aten::nonzero": lambda: values.nonzero(),
        "aten::index": lambda: values[values > 2],
        "aten::index_put_": lambda: values.clone().__setitem__(values > 2, values[:1]),
        "aten::masked_select": lambda: values.masked_select(values > 2),
        "aten::_to_copy": lambda: torch.ones(3).to(values.device),
        "aten::copy_": lambda: values[:3].copy_(torch.ones(3)),
    }
    for name, call in cases.items():
        with torch.no_grad(), Waits() as waits:
            call()
        assert waits.counts == {name: 1}, name
    with torch.no_grad(), Waits() as waits:
        torch.ones(3).to(values.device, non_blocking=True)
        values[torch.arange(2, device=values.device)].sort().values.where(values[:2] > 0, 0)
    assert not waits.counts
