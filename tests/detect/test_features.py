"""The pooled feature of the detector's backbone."""

from pathlib import Path
from typing import Any

import torch

from job.detect.features import PooledFeature, find_backbone, find_deepest_map
from tests.conftest import SMALL_RCNN, picture
from tests.detect.conftest import build


def test_the_feature_is_the_mean_over_the_image_without_its_padding(tmp_path: Path) -> None:
    detector = build(tmp_path, SMALL_RCNN)
    feature = PooledFeature(detector.model)
    feature.expect(96, 140)  # padded to 96 x 160 by the model
    image = torch.from_numpy(picture(0, 96, 140).transpose(2, 0, 1).copy())
    backbone = find_backbone(detector.model)
    seen: list[Any] = []
    assert backbone is not None
    backbone.register_forward_hook(lambda module, inputs, output: seen.append(find_deepest_map(output)))
    with torch.inference_mode():
        detector.model([{"image": image}])
    assert seen[0].shape == (1, 512, 3, 5) and feature.value is not None
    expected = seen[0][0, :, :, :5].mean(dim=(1, 2))  # 140 / 32 is 4.4: the image covers five columns
    torch.testing.assert_close(feature.value[0], expected)
    feature.expect(40, 60)
    with torch.inference_mode():
        detector.model([{"image": image}])
    torch.testing.assert_close(feature.value[0], seen[1][0, :, :2, :2].mean(dim=(1, 2)))
