"""The demo model, compared with OpenCV 4.10's Darknet network (tests/data/README.md describes the values)."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from demo import fetch
from job.detect import probabilities
from job.detect.model import Detector
from job.detect.weights import read_darknet
from job.errors import SettingsError
from tests.conftest import DATA, DEMO_YAML


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(DATA / "yolov3_tiny_opencv.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def outputs(golden: Any, demo_detector: Detector) -> dict[str, Any]:
    """The outputs of the demo model for the same image: raw head outputs and decoded boxes."""
    net: Any = demo_detector.model
    image = np.kron(golden["small"], np.ones((32, 32, 1), np.uint8))
    tensor = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    with torch.inference_mode():
        features = net.backbone(tensor)
        neck = net.neck(features["deep"])
        upsampled = torch.nn.functional.interpolate(net.lateral(neck), scale_factor=2)
        raw = {"coarse": net.coarse(neck), "fine": net.fine(torch.cat([upsampled, features["shallow"]], 1))}
        found = net.predict(tensor)
    boxes, objectness = found.boxes[0].numpy(), found.objectness[0].numpy()
    return {**raw, "boxes": boxes, "objectness": objectness, "size": image.shape[1::-1]}


@pytest.mark.parametrize("head", ["coarse", "fine"])
def test_the_network_is_that_of_darknet(head: str, golden: Any, outputs: dict[str, Any]) -> None:
    ours = outputs[head].numpy().ravel()[golden[f"{head}_index"]]
    np.testing.assert_allclose(ours, golden[head], rtol=0, atol=2e-4)
    assert np.abs(golden[head]).max() > 5  # the values are not all near zero


@pytest.mark.parametrize("head", ["coarse", "fine"])
def test_boxes_are_those_of_darknet(head: str, golden: Any, outputs: dict[str, Any]) -> None:
    # OpenCV has (cell, anchor) rows of relative center and size; the demo model (anchor, cell) rows of pixel corners.
    rows = golden[f"{head}_row"]
    cells = outputs[head].shape[2] * outputs[head].shape[3]
    start = 0 if head == "coarse" else 3 * outputs["coarse"].shape[2] * outputs["coarse"].shape[3]
    ours = start + (rows % 3) * cells + rows // 3
    x, y, width, height, objectness = golden[f"{head}_box"].T
    corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1) * np.tile(outputs["size"], 2)
    np.testing.assert_allclose(outputs["boxes"][ours], corners, rtol=1e-4, atol=0.05)
    np.testing.assert_allclose(outputs["objectness"][ours], objectness, atol=1e-4)


def detect(detector: Detector, images: list[Any], **more: Any) -> list[Any]:
    with torch.inference_mode():
        return [each["instances"] for each in detector.model([{"image": image, **more} for image in images])]


@pytest.fixture(scope="module")
def street(frames: list[Any]) -> torch.Tensor:
    """A frame with a car and people in it, RGB."""
    image = cv2.imread(str(frames[166]))
    assert image is not None
    return torch.from_numpy(image[:, :, ::-1].transpose(2, 0, 1).copy())


def test_the_demo_model_detects_the_car(demo_detector: Detector, street: torch.Tensor) -> None:
    (found,) = detect(demo_detector, [street])
    names = [demo_detector.class_names[each] for each in found.pred_classes]
    assert "car" in names
    assert (found.scores.diff() <= 0).all()


def test_class_probabilities_are_distributions_that_agree_with_the_boxes(
    demo_detector: Detector, street: torch.Tensor
) -> None:
    (found,) = detect(demo_detector, [street])
    rows = probabilities.of_instances(found, 80)
    assert rows.shape == (len(found), 81)
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(len(found)))
    # score = objectness * class; row = objectness * class / sum of classes; so score / row = that sum, for every box.
    own = rows.gather(1, found.pred_classes[:, None])[:, 0]
    ratio = found.scores / own
    assert ((ratio > 0.5) & (ratio < 2)).all()
    objectness = 1 - rows[:, -1]
    assert (found.scores <= objectness + 1e-6).all()


def test_the_feature_of_a_box_is_that_of_the_cell_of_its_center(demo_detector: Detector, street: torch.Tensor) -> None:
    net: Any = demo_detector.model
    kept: list[torch.Tensor] = []
    hook = net.fine.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0]))
    (found,) = detect(demo_detector, [street])
    hook.remove()
    assert len(found) > 3 and found.box_features.shape == (len(found), 384)
    for box, feature in zip(found.pred_boxes.tensor, found.box_features, strict=True):
        left, top, right, bottom = box.tolist()
        inside = left > 16 and right < street.shape[2] - 16 and top > 16 and bottom < street.shape[1] - 16
        if inside:  # no side was clipped, so this is the center that the model predicted
            assert torch.equal(feature, kept[0][:, int((top + bottom) / 2 / 16), int((left + right) / 2 / 16)])


def test_boxes_are_given_in_the_wanted_size(demo_detector: Detector, street: torch.Tensor) -> None:
    height, width = street.shape[1:]
    (plain,) = detect(demo_detector, [street])
    (double,) = detect(demo_detector, [street], height=2 * height, width=2 * width)
    assert double.image_size == (2 * height, 2 * width)
    torch.testing.assert_close(double.pred_boxes.tensor, 2 * plain.pred_boxes.tensor, rtol=1e-5, atol=1e-3)


def test_a_batch_of_one_shape_gives_what_each_image_gives_alone(demo_detector: Detector, frames: list[Any]) -> None:
    images = [torch.from_numpy(cv2.imread(str(each)).transpose(2, 0, 1)) for each in frames[150:250:25]]  # type: ignore[union-attr]
    together = detect(demo_detector, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = detect(demo_detector, [image])
        torch.testing.assert_close(found.pred_boxes.tensor, alone.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.scores, alone.scores, rtol=0, atol=1e-5)
        assert (found.pred_classes == alone.pred_classes).all()


def test_the_layout_has_every_parameter_once() -> None:
    cfg = get_cfg()
    cfg.merge_from_file(str(DEMO_YAML))
    cfg.MODEL.DEVICE = "cpu"
    net: Any = build_model(cfg)
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items() if "num_batches" not in name}
    layout = net.darknet_layout()
    assert len(layout) == len(wanted) and dict(layout) == wanted


def test_a_weights_file_of_another_size_is_refused(tmp_path: Any) -> None:
    layout = [("a", (2, 3)), ("b", (4,))]
    path = tmp_path / "x.weights"
    header = np.array([0, 2, 0], "<i4").tobytes() + np.array([7], "<i8").tobytes()
    values = np.arange(10, dtype="<f4")
    path.write_bytes(header + values.tobytes())
    state = read_darknet(path, layout)
    assert state["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and state["b"].tolist() == [6, 7, 8, 9]
    path.write_bytes(np.array([0, 1, 0, 7], "<i4").tobytes() + values.tobytes())  # before version 0.2: a shorter header
    assert read_darknet(path, layout)["b"].tolist() == [6, 7, 8, 9]
    for data in (b"", b"abc", header, header + values[:9].tobytes(), header + np.arange(11, dtype="<f4").tobytes()):
        path.write_bytes(data)
        with pytest.raises(SettingsError, match=r"parameters, but the model has 10:"):
            read_darknet(path, layout)


def test_the_demo_files_are_the_published_ones() -> None:
    assert all(fetch._is_expected(path) for path in fetch._SHA256)
