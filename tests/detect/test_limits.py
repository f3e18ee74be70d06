"""The size of batches: by memory, and by the 32-bit integers of RoIAlign."""

from typing import Any

import pytest
from detectron2 import model_zoo
from detectron2.modeling import build_model
from torch import nn

from job.detect.limits import BatchLimit

INT32 = 2**31


def plain_model() -> nn.Module:
    return nn.Identity()


def zoo(name: str) -> Any:
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return build_model(cfg)


@pytest.mark.parametrize(
    ("name", "values_per_pixel", "values_per_image"),
    [
        # P2: 256 channels at stride 4. 1,000 regions of 256 x 7 x 7.
        ("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml", 256 / 4**2, 1000 * 256 * 7 * 7),
        # res4: 1,024 channels at stride 16. 1,000 regions of 1,024 x 14 x 14.
        ("COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", 1024 / 16**2, 1000 * 1024 * 14 * 14),
        # P3: 256 channels at stride 8, and no regions.
        ("COCO-Detection/retinanet_R_50_FPN_3x.yaml", 256 / 8**2, None),
    ],
)
def test_no_tensor_of_roi_align_has_2_to_the_31_values(
    name: str, values_per_pixel: float, values_per_image: int | None
) -> None:
    limit = BatchLimit(10**6, zoo(name))
    padded = 1216 * 2016  # 1200 x 2000
    batch = limit.of(1200, 2000)
    assert batch * padded * values_per_pixel < INT32
    assert values_per_image is None or batch * values_per_image < INT32
    # One more image would be too many for one of the two.
    assert max((batch + 1) * padded * values_per_pixel, (batch + 1) * (values_per_image or 0)) >= INT32
    assert limit.of(100_000, 100_000) == 1


def test_64_images_of_the_usual_size_are_one_batch() -> None:
    limit = BatchLimit(64, zoo("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"))
    assert limit.of(800, 1333) == 64
    assert limit.of(1200, 2000) == 54


def test_a_model_that_tells_no_shapes_has_a_limit() -> None:
    assert BatchLimit(64, plain_model()).of(1200, 2000) == 54


def test_batches_are_halved_by_pixels() -> None:
    limit = BatchLimit(64, plain_model())
    assert limit.halve(5, 960, 1920) == 2  # a few large images of the end of a part
    assert limit.of(320, 640) == 18  # as many pixels
    assert limit.of(96, 96) == 64
    assert limit.halve(64, 96, 96) == 32
    assert limit.of(960, 1920) == 1
    assert limit.halve(1, 960, 1920) == 1
    assert limit.of(96, 96) == 32  # it never rises
