"""Makes the files that Ultralytics writes, in a process of its own: python ultralytics_files.py IMAGES OUTPUT

Ultralytics is licensed under AGPL-3.0. It is no part of the job: `make test` installs it outside the environment of the
project, and nothing but this script imports it. The model is untrained, with random numbers in its head.
"""

import sys
from pathlib import Path

import torch
import ultralytics
from ultralytics import YOLO

CLASSES = ("car", "dog", "bus")
OPTIONS = {"conf": 0.05, "imgsz": 160, "max_det": 30, "device": "cpu", "verbose": False, "exist_ok": True}


def build(folder: Path) -> YOLO:
    """The smallest model of version 11, for three classes."""
    layout = (Path(ultralytics.__file__).parent / "cfg/models/11/yolo11.yaml").read_text()
    (folder / "yolo11n-three.yaml").write_text(layout.replace("nc: 80", f"nc: {len(CLASSES)}"))
    torch.manual_seed(0)
    model = YOLO(folder / "yolo11n-three.yaml")
    network = model.model
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1  # so that one pass gives features of a normal size
    network.train()(torch.rand(8, 3, 160, 160))
    network.eval()
    head = network.model[-1]
    for level, (boxes, scores) in enumerate(zip(head.cv2, head.cv3, strict=True)):
        boxes[-1].bias.data = torch.linspace(2, -2, head.reg_max).repeat(4)  # small boxes
        scores[-1].weight.data.normal_(0, 0.002)
        scores[-1].bias.data = torch.tensor(
            [float(level) if number == level else -2.0 for number in range(len(CLASSES))]
        )
    return model


def main(images: Path, output: Path) -> None:
    """Writes output/predict/labels/*.txt and output/val/predictions.json."""
    model = build(output)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (output / "data.yaml").write_text(f"path: {images.parent}\ntrain: images\nval: images\nnames:\n{names}")
    options = OPTIONS | {"project": str(output)}
    model.predict(str(images), name="predict", save=False, save_txt=True, save_conf=True, **options)
    model.val(data=str(output / "data.yaml"), name="val", save_json=True, plots=False, workers=0, **options)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
