"""Predictions in files that the real tools have written, and our exports in the hands of these tools.

Ultralytics is licensed under AGPL-3.0, so it is neither in the image nor in the environment: `make test` installs it
into .cache/tools, and without it these tests are skipped.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from labelformat.formats.coco import COCOObjectDetectionInput, COCOObjectDetectionOutput
from labelformat.formats.lightly import LightlyObjectDetectionOutput
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from job import exports, external
from job.external import InputImages, Predictions
from job.external.boxes import check_boxes
from job.external.take_in import compare_rows
from job.inputs import list_names
from tests.conftest import ROOT, Job, settings
from tests.exports.test_writing import CLASSES, filled, uri_of
from tests.external import arrays, read

TOOLS = ROOT / ".cache" / "tools"
SCRIPT = Path(__file__).with_name("ultralytics_files.py")
ULTRALYTICS_CLASSES = ("car", "dog", "bus")
NAMES = ["a.jpg", "d ö.jpg", "sub/b.png", "sub/c.jpg"]
needs_ultralytics = pytest.mark.skipif(
    not (TOOLS / "ultralytics").exists(), reason="Ultralytics is not installed: make .cache/tools/.installed"
)


@pytest.fixture(scope="module")
def of_ultralytics(frames: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and what Ultralytics wrote of them: out/predict/labels and out/val/predictions.json."""
    folder = tmp_path_factory.mktemp("ultralytics")
    for name in ("images", "labels", "out"):
        (folder / name).mkdir()
    for frame in frames[60::60]:
        (folder / "images" / frame.name).write_bytes(frame.read_bytes())
        (folder / "labels" / f"{frame.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    environment = os.environ | {
        "PYTHONPATH": str(TOOLS),
        "YOLO_CONFIG_DIR": str(folder),
        "YOLO_OFFLINE": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder / "images"), str(folder / "out")],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def read_of_images(images: Path, uri: Path, classes: tuple[str, ...]) -> tuple[Predictions, list[str]]:
    """Predictions, and what may be wrong with their boxes."""
    stop, ours = threading.Event(), settings(input=str(images), predictions=str(uri))
    files = list_names(ours, stop)
    of_input = InputImages(ours, files, stop)
    found = external.read(str(uri), classes, stop=stop, images=of_input)
    match = compare_rows(ours, files, (row.file_name for row in found.rows))
    assert match.counts == {"matched": len(files), "unknown": 0, "without": 0}
    return found, check_boxes(found.rows, found.layout, match, of_input)


def list_boxes(found: Predictions) -> list[tuple[str, int, float, list[float]]]:
    """Name of the image, class, score and box of all detections."""
    return [
        (row.file_name, number, score, box)
        for row in found.rows
        for box, score, number in zip(*(values.tolist() for values in arrays(row)[:3]), strict=True)
    ]


@needs_ultralytics
def test_labels_of_ultralytics(of_ultralytics: Path) -> None:
    folder = of_ultralytics / "out" / "predict"
    found, doubts = read_of_images(of_ultralytics / "images", folder, ULTRALYTICS_CLASSES)
    assert doubts == []
    expected = []
    for path in sorted((folder / "labels").glob("*.txt")):
        rows = [[float(value) for value in line.split()] for line in path.read_text().splitlines()]
        for number, x, y, width, height, score in sorted(rows, key=lambda row: -row[5]):
            left, top = (x - width / 2) * 640, (y - height / 2) * 272
            box = [left, top, left + width * 640, top + height * 272]
            expected.append((f"{path.stem}.jpg", int(number), score, box))
    assert len(expected) > 20
    compare_boxes(list_boxes(found), expected)


@needs_ultralytics
@pytest.mark.parametrize("path", ["predict", "val/predictions.json"])
def test_check_finds_nothing_wrong_with_files_of_ultralytics(
    of_ultralytics: Path, job: Job, tmp_path: Path, path: str
) -> None:
    done = job(
        "check",
        CORAL_INPUT=of_ultralytics / "images",
        CORAL_OUTPUT=tmp_path,
        CORAL_PREDICTIONS=of_ultralytics / "out" / path,
        CORAL_CLASSES="car,dog,bus",
        CORAL_STRATEGY="active_learning",
        CORAL_N_SAMPLES=2,
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4 images have an entry in CORAL_PREDICTIONS" in done.stdout + done.stderr


@needs_ultralytics
def test_predictions_of_ultralytics(of_ultralytics: Path) -> None:
    path = of_ultralytics / "out" / "val" / "predictions.json"
    found, doubts = read_of_images(of_ultralytics / "images", path, ULTRALYTICS_CLASSES)
    assert doubts == []
    rows = sorted(json.loads(path.read_text()), key=lambda row: (row["file_name"], -row["score"]))
    expected = [
        (row["file_name"], row["category_id"] - 1, row["score"], [left, top, left + width, top + height])
        for row in rows
        for left, top, width, height in [row["bbox"]]
    ]
    assert len(expected) > 20 and len({number for _, number, _, _ in expected}) > 1
    compare_boxes(list_boxes(found), expected)


def compare_boxes(found: list[Any], expected: list[Any]) -> None:
    assert [one[:2] for one in found] == [one[:2] for one in expected]
    np.testing.assert_allclose([one[2] for one in found], [one[2] for one in expected], atol=1e-6)
    np.testing.assert_allclose([one[3] for one in found], [one[3] for one in expected], atol=1e-3)


def test_results_of_the_evaluator_of_detectron2(tmp_path: Path) -> None:
    """Its ids are those of the data set, which have gaps and are not in the order of the names."""
    sizes = {7: (640, 480), 3: (320, 240)}
    data_set = {
        "images": [
            {"id": number, "file_name": f"sub/{number}.jpg", "width": width, "height": height}
            for number, (width, height) in sizes.items()
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 44, "bbox": [10, 20, 30, 40], "area": 1200, "iscrowd": 0}
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(data_set))
    register_coco_instances("coralpick_test", {}, str(path), str(tmp_path))
    try:
        evaluator = COCOEvaluator(
            "coralpick_test", tasks=("bbox",), distributed=False, output_dir=str(tmp_path), use_fast_impl=False
        )
        evaluator.reset()
        expected = []
        rng = np.random.default_rng(0)
        for record in DatasetCatalog.get("coralpick_test"):
            width, height = sizes[record["image_id"]]
            corners = np.sort(rng.uniform(0, [width, height], (5, 2, 2)), axis=1).reshape(5, 4).astype(np.float32)
            scores, classes = np.sort(rng.random(5, np.float32))[::-1].copy(), rng.integers(0, 3, 5)
            instances = Instances((height, width))
            instances.pred_boxes, instances.scores = Boxes(torch.tensor(corners)), torch.tensor(scores)
            instances.pred_classes = torch.tensor(classes)
            evaluator.process([record], [{"instances": instances}])
            name = f"sub/{record['image_id']}.jpg"
            expected += list(zip([name] * 5, classes.tolist(), scores.tolist(), corners.tolist(), strict=True))
        evaluator.evaluate()
    finally:
        DatasetCatalog.remove("coralpick_test")
        MetadataCatalog.remove("coralpick_test")
    found = read(f"{tmp_path / 'coco_instances_results.json'},{path}")
    assert found.class_names == ("person", "bottle", "toothbrush")
    assert [(row.width, row.height) for row in found.rows] == [sizes[3], sizes[7]]
    compare_boxes(list_boxes(found), sorted(expected, key=lambda one: one[0]))


@pytest.fixture
def exported(tmp_path: Path) -> tuple[Path, Path]:
    """coco.json of the picks, and that of all images."""
    output, pool, found = filled(tmp_path / "out", NAMES)
    exports.write(output, pool, NAMES, uri_of, found, ["coco"])
    exports.write_all_images(output, pool, uri_of)
    return tmp_path / "out/exports/coco.json", tmp_path / "out/predictions/coco.json"


@pytest.fixture
def results(exported: tuple[Path, Path], tmp_path: Path) -> Path:
    """The detections as a list of results."""
    rows = json.loads(exported[1].read_text())["annotations"]
    keys = ("image_id", "category_id", "bbox", "score")
    (tmp_path / "results.json").write_text(json.dumps([{key: row[key] for key in keys} for row in rows]))
    return tmp_path / "results.json"


def test_pycocotools_evaluates_our_exports(exported: tuple[Path, Path], results: Path) -> None:
    """Detections that are compared with themselves are perfect."""
    picks, everything = COCO(str(exported[0])), COCO(str(exported[1]))
    for truth, detections in ((everything, everything.loadRes(str(results))), (everything, picks)):
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_results_that_pycocotools_has_loaded(exported: tuple[Path, Path], results: Path, tmp_path: Path) -> None:
    loaded = COCO(str(exported[1])).loadRes(str(results))
    (tmp_path / "loaded.json").write_text(json.dumps(loaded.dataset))
    expected = list_boxes(read(exported[1]))
    compare_boxes(list_boxes(read(tmp_path / "loaded.json")), expected)
    compare_boxes(list_boxes(read(f"{results},{exported[1]}")), expected)


def write_coco(source: COCOObjectDetectionInput, folder: Path) -> Path:
    COCOObjectDetectionOutput(folder / "by_labelformat.json").save(source)
    return folder / "by_labelformat.json"


def write_lightly(source: COCOObjectDetectionInput, folder: Path) -> Path:
    LightlyObjectDetectionOutput(folder / "task").save(source)
    return folder / "task"


@pytest.mark.parametrize("write", [write_coco, write_lightly])
def test_files_of_labelformat(
    exported: tuple[Path, Path], tmp_path: Path, write: Callable[[COCOObjectDetectionInput, Path], Path]
) -> None:
    """It reads our file and writes its own, which the job reads."""
    found = read(write(COCOObjectDetectionInput(exported[1]), tmp_path))
    assert found.class_names == CLASSES
    compare_boxes(list_boxes(found), list_boxes(read(exported[1])))
