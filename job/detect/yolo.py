"""YOLOv3-tiny as a detectron2 meta-architecture: a real COCO detector of 35 MB that runs at video speed on a CPU.

The network is from Redmon and Farhadi (YOLOv3: An Incremental Improvement, 2018, config yolov3-tiny), and loads Darknet
weights. Input and output have the format of detectron2's GeneralizedRCNN.
"""

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from job.detect.box_features import take_cells

# Width and height, in input pixels, of the three anchors of each head (yolov3-tiny.cfg, masks 3,4,5 and 1,2,3).
_ANCHORS = {"coarse": ((81, 82), (135, 169), (344, 319)), "fine": ((23, 27), (37, 58), (81, 82))}
_STRIDES = {"coarse": 32, "fine": 16}
STRIDE = 32
_CELL = _STRIDES["fine"]
PAD_VALUE = 0.5  # Darknet's grey


class Predicted(NamedTuple):
    """What is predicted for the A anchors of N images.

    Attributes:
        boxes: (N, A, 4) corners in input pixels.
        objectness: (N, A) in [0, 1].
        classes: (N, A, C) class scores in [0, 1].
        cells: (N, A) number of the cell of `feature_map` that holds the center of the box.
        feature_map: (N, D, rows, columns) input of the fine head, which sees the features of both heads.
    """

    boxes: torch.Tensor
    objectness: torch.Tensor
    classes: torch.Tensor
    cells: torch.Tensor
    feature_map: torch.Tensor


def _make_block(inputs: int, outputs: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-6),
        nn.LeakyReLU(0.1),
    )


class TinyBackbone(nn.Module):
    """The backbone: all convolutions before the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(
            _make_block(3, 16, 3),
            nn.MaxPool2d(2),
            _make_block(16, 32, 3),
            nn.MaxPool2d(2),
            _make_block(32, 64, 3),
            nn.MaxPool2d(2),
            _make_block(64, 128, 3),
            nn.MaxPool2d(2),
            _make_block(128, 256, 3),
        )
        self.deep = nn.Sequential(
            nn.MaxPool2d(2),
            _make_block(256, 512, 3),
            # Darknet's pooling with stride 1 keeps the size: windows at the right and lower border have fewer pixels.
            # Zero padding would win over negative features there; repeated border pixels never do.
            nn.ReplicationPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(2, stride=1),
            _make_block(512, 1024, 3),
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turns (N, 3, H, W) images into features: ``shallow`` (N, 256, H/16, W/16), ``deep`` (N, 1024, H/32, W/32)."""
        shallow = self.shallow(images)
        return {"shallow": shallow, "deep": self.deep(shallow)}


@META_ARCH_REGISTRY.register()
class TinyYolo(nn.Module):
    """YOLOv3-tiny.

    Args:
        cfg: detectron2 config. The model reads MODEL.ROI_HEADS.{NUM_CLASSES, SCORE_THRESH_TEST, NMS_THRESH_TEST},
            MODEL.{PIXEL_MEAN, PIXEL_STD, DEVICE} and TEST.DETECTIONS_PER_IMAGE.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.num_classes = int(cfg.MODEL.ROI_HEADS.NUM_CLASSES)
        self.score_threshold = float(cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST)
        self.nms_threshold = float(cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST)
        self.max_detections = int(cfg.TEST.DETECTIONS_PER_IMAGE)
        outputs = 3 * (5 + self.num_classes)
        self.backbone = TinyBackbone()
        self.neck = _make_block(1024, 256, 1)
        self.coarse = nn.Sequential(_make_block(256, 512, 3), nn.Conv2d(512, outputs, 1))
        self.lateral = _make_block(256, 128, 1)
        self.fine = nn.Sequential(_make_block(384, 256, 3), nn.Conv2d(256, outputs, 1))
        for head, anchors in _ANCHORS.items():
            self.register_buffer(f"{head}_anchors", torch.tensor(anchors, dtype=torch.float32), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1), persistent=False)
        self.to(cfg.MODEL.DEVICE)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.pixel_mean.device  # type: ignore[return-value]

    def darknet_layout(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns names and shapes of the parameters, in the order of a Darknet weights file.

        The order is by layer. Within a layer, the bias comes first, then the rest of the batch norm, if the layer has
        one, then the weights of the convolution.
        """
        layout: list[tuple[str, tuple[int, ...]]] = []
        convolutions = [(name, module) for name, module in self.named_modules() if isinstance(module, nn.Conv2d)]
        for name, convolution in convolutions:
            norm = name.removesuffix("0") + "1"
            names = (
                [f"{name}.bias"]
                if convolution.bias is not None
                else [f"{norm}.bias", f"{norm}.weight", f"{norm}.running_mean", f"{norm}.running_var"]
            )
            layout += [(parameter, (convolution.out_channels,)) for parameter in names]
            layout.append((f"{name}.weight", tuple(convolution.weight.shape)))
        return layout

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detects objects.

        Args:
            batched_inputs: For each image, a dict with ``image``, a (3, H, W) tensor with values from 0 to 255 in the
                channel order of INPUT.FORMAT, and with ``height`` and ``width``, the image size that boxes refer to.

        Returns:
            For each image, a dict with ``instances``, which has ``pred_boxes``, ``scores`` (objectness times class
            probability), ``pred_classes``, ``class_probabilities`` of shape (boxes, classes + 1), and ``box_features``
            of shape (boxes, D).
        """
        images = self.preprocess_image(batched_inputs)
        predicted = self.predict(images.tensor)
        results = []
        for index, (size, item) in enumerate(zip(images.image_sizes, batched_inputs, strict=True)):
            output_size = item.get("height", size[0]), item.get("width", size[1])
            of_image = Predicted(*(values[index] for values in predicted))
            instances = self._filter_boxes(of_image, size, output_size)
            results.append({"instances": instances})
        return results

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalises and pads images, as the method of this name does in detectron2's own models."""
        tensors = [(item["image"].to(self.device) - self.pixel_mean) / self.pixel_std for item in batched_inputs]
        return ImageList.from_tensors(tensors, STRIDE, pad_value=PAD_VALUE)

    def predict(self, images: torch.Tensor) -> "Predicted":
        """Returns what is predicted for all anchors of N images."""
        features = self.backbone(images)
        neck = self.neck(features["deep"])
        upsampled = nn.functional.interpolate(self.lateral(neck), scale_factor=2, mode="nearest")
        joined = torch.cat([upsampled, features["shallow"]], dim=1)
        outputs = {"coarse": self.coarse(neck), "fine": self.fine(joined)}
        # Box sizes are differences of large numbers: half precision would move the boxes by pixels.
        decoded = [self._decode(output.float(), head) for head, output in outputs.items()]
        boxes, objectness, classes, centers = (torch.cat(heads, dim=1) for heads in zip(*decoded, strict=True))
        rows, columns = joined.shape[2:]
        column, row = (centers / _CELL).long().unbind(dim=2)
        cells = row.clamp(max=rows - 1) * columns + column.clamp(max=columns - 1)
        return Predicted(boxes, objectness, classes, cells, joined)

    def _decode(self, output: torch.Tensor, head: str) -> tuple[torch.Tensor, ...]:
        count, _, rows, columns = output.shape
        output = output.view(count, 3, 5 + self.num_classes, rows, columns).permute(0, 1, 3, 4, 2)
        y, x = torch.meshgrid(
            torch.arange(rows, device=output.device), torch.arange(columns, device=output.device), indexing="ij"
        )
        center = (output[..., :2].sigmoid() + torch.stack([x, y], dim=-1)) * _STRIDES[head]
        anchors = getattr(self, f"{head}_anchors")
        half = output[..., 2:4].exp() * anchors[:, None, None, :] / 2
        boxes = torch.cat([center - half, center + half], dim=-1)
        objectness, classes = output[..., 4].sigmoid().flatten(1), output[..., 5:].sigmoid().flatten(1, 3)
        return boxes.flatten(1, 3), objectness, classes, center.flatten(1, 3)

    def _filter_boxes(self, predicted: "Predicted", size: tuple[int, int], output_size: tuple[int, int]) -> Instances:
        boxes, objectness, classes, cells, feature_map = predicted
        scores = objectness[:, None] * classes
        anchor, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        scale = boxes.new_tensor([output_size[1] / size[1], output_size[0] / size[0]] * 2)
        scaled = Boxes(boxes[anchor] * scale)
        scaled.clip(output_size)
        keep = batched_nms(scaled.tensor, scores[anchor, label], label, self.nms_threshold)[: self.max_detections]
        anchor, label = anchor[keep], label[keep]
        instances = Instances(output_size)
        instances.pred_boxes = scaled[keep]
        instances.scores = scores[anchor, label]
        instances.pred_classes = label
        instances.class_probabilities = self.share(objectness[anchor], classes[anchor])
        instances.box_features = take_cells(feature_map, cells[anchor])
        return instances

    @staticmethod
    def share(objectness: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Converts objectness (boxes,) and class scores (boxes, classes) into distributions (boxes, classes + 1).

        The class scores are independent sigmoids. For a distribution over "one of the classes, or none", they share the
        objectness in proportion, and the rest is the background.
        """
        shares = objectness[:, None] * classes / classes.sum(dim=1, keepdim=True)
        return torch.cat([shares, 1 - objectness[:, None]], dim=1)
