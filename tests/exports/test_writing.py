"""The exports, read back by pycocotools, labelformat and the job's own reader, and by hand where no reader is small."""

import json
import shutil
import tracemalloc
import weakref
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import yaml
from labelformat.formats.coco import COCOObjectDetectionInput
from labelformat.formats.cvat import CVATObjectDetectionInput
from labelformat.formats.pascalvoc import PascalVOCObjectDetectionInput
from labelformat.formats.yolov8 import YOLOv8ObjectDetectionInput
from labelformat.model.object_detection import ObjectDetectionInput
from pycocotools.coco import COCO

from job import exports, parts
from job.context import Selected
from job.exports import coco
from job.exports.detected import DetectedImage, make_detected_image
from job.exports.lightly import task_name
from job.external import coco as external
from job.parts import boxes
from job.parts import pool as pools
from job.parts.boxes import Detections
from job.parts.owned import OwnedOutput
from job.parts.pool import Pool
from job.storage import Entry, Storage
from job.storage.local import LocalFolder
from tests.conftest import picture
from tests.parts.test_part import MADE_WITH, row

WIDTH, HEIGHT = 4000, 300
CLASSES = ("person", 'traffic "light" & <b>', "ö")
NAMES = [
    "a.jpg", "a.png", "a.png.jpg", "b", "sub/a.jpg", "sub/a.tiff", ".hidden.jpg", "ä ö.jpg", "v1.0/x.jpg",
    "x.xml/y.jpg", "x.jpg", "line\nbreak.jpg", "return\r.jpg", "tab\t.jpg", "n" * 296 + ".jpg", "a//b.jpg", "../up.jpg",
    "/root.jpg", "<script>alert('1')</script>&amp;\"]]>.jpg", "back\\slash.jpg", "images/train/i.jpg",
    "train/images/i.jpg", " space .jpg", "unsized.jpg", "s3://bucket/key.jpg", "no detections.jpg",
]  # fmt: skip
SIZED = [name for name in NAMES if name != "unsized.jpg"]
# Class, score, box: as they come back.
Found = dict[str, list[tuple[str, float | None, list[float]]]]


def uri_of(name: str) -> str:
    return f"s3://bucket/frames/{name}"


def parsed(content: bytes) -> ET.Element:
    return ET.fromstring(content)  # noqa: S314  # our own


def filled(folder: Path, names: list[str], per_part: int = 7) -> tuple[OwnedOutput, Pool, dict[str, Detections]]:
    """An output with a row for each image: the first has one box, the second two, the third three, and so on."""
    output = OwnedOutput(LocalFolder(str(folder), follows_links=False))
    made_with = replace(MADE_WITH, class_names=CLASSES)
    rows = []
    for number, name in enumerate(names):
        each = row(name, boxes=0 if name == "no detections.jpg" else 1 + number % 3, seed=number)
        assert each.boxes is not None
        corners = np.sort(each.boxes.reshape(-1, 2, 2), axis=1) * (WIDTH, HEIGHT)
        size = (None, None) if name == "unsized.jpg" else (WIDTH, HEIGHT)
        rows.append(replace(each, boxes=corners.reshape(-1, 4).astype(np.float32), width=size[0], height=size[1]))
    for start in range(0, len(rows), per_part):
        parts.write(output, rows[start : start + per_part], made_with)
    pool = pools.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])
    return output, pool, boxes.detections(output, pool, range(len(pool.file_names)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Detections]]:
    """The folder of the exports in all formats, and what was detected."""
    folder = tmp_path_factory.mktemp("run") / "out"
    output, pool, found = filled(folder, NAMES)
    exports.write(output, pool, NAMES, uri_of, found, exports.FORMATS)
    exports.write_all_images(output, pool, uri_of)
    assert [each.name for each in folder.parent.iterdir()] == ["out"]
    assert {each.name for each in folder.iterdir()} == {"parts", ".coralpick", "exports", "predictions"}
    return folder / "exports", found


def check(back: Found, found: dict[str, Detections], names: list[str], *, scores: bool) -> None:
    """Holds what was read back to what was detected."""
    assert back.keys() == set(names)
    for name in names:
        expected = found[name]
        assert [kind for kind, _, _ in back[name]] == [CLASSES[kind] for kind in expected.classes]
        boxes = np.array([box for _, _, box in back[name]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, expected.boxes, atol=0.01)
        if scores:
            np.testing.assert_allclose([score or 0 for _, score, _ in back[name]], expected.scores, atol=1e-6)


def by_labelformat(reader: ObjectDetectionInput) -> Found:
    """What labelformat reads, by file name."""
    back: Found = {}
    for each in reader.get_labels():
        assert each.image.filename not in back
        back[each.image.filename] = [
            (one.category.name, one.confidence, [one.box.xmin, one.box.ymin, one.box.xmax, one.box.ymax])
            for one in each.objects
        ]
    return back


def by_pycocotools(path: Path) -> tuple[COCO, Found]:
    """What pycocotools reads, by file name."""
    assert "null" not in path.read_text() and "NaN" not in path.read_text()
    content = COCO(str(path))
    back: Found = {}
    for number, image in content.imgs.items():
        back[image["file_name"]] = []
        for each in content.loadAnns(content.getAnnIds(imgIds=number, iscrowd=False)):
            left, top, width, height = each["bbox"]
            assert each["area"] == pytest.approx(width * height, abs=1e-3)
            kind = content.cats[each["category_id"]]["name"]
            back[image["file_name"]].append((kind, each["score"], [left, top, left + width, top + height]))
    assert len(back) == len(content.imgs) and len(content.anns) == len(content.dataset["annotations"])
    return content, back


def test_pycocotools_reads_the_picks(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    content, back = by_pycocotools(folder / "coco.json")
    check(back, found, NAMES, scores=True)
    images = content.dataset["images"]
    assert [each["file_name"] for each in images] == NAMES  # best first
    assert all(each["coco_url"] == uri_of(each["file_name"]) for each in images)
    sizes = {each["file_name"]: (each.get("width"), each.get("height")) for each in images}
    assert sizes.pop("unsized.jpg") == (None, None) and set(sizes.values()) == {(WIDTH, HEIGHT)}
    assert "after its EXIF orientation" in content.dataset["info"]["description"]
    assert [each["id"] for each in content.dataset["categories"]] == [1, 2, 3]


def test_pycocotools_reads_all_images_by_the_same_ids(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    everything, back = by_pycocotools(folder.parent / "predictions" / "coco.json")
    check(back, found, NAMES, scores=True)
    picks, _ = by_pycocotools(folder / "coco.json")
    assert picks.imgs == everything.imgs


def test_all_images_give_the_same_bytes_however_the_parts_are_cut(tmp_path: Path) -> None:
    contents = []
    for per_part in (1, 7, len(NAMES)):
        output, pool, found = filled(tmp_path / str(per_part), NAMES, per_part)
        exports.write_all_images(output, pool, uri_of)
        contents.append(output.read(exports.ALL_IMAGES))
    assert len(set(contents)) == 1
    # As one piece, in memory.
    sizes = pool.size.tolist()
    images = [
        make_detected_image(pool, row, "", found[name], with_probabilities=True)
        for row, name in enumerate(pool.file_names)
    ]
    entries = [coco.make_entry(row + 1, name, uri_of(name), *sizes[row]) for row, name in enumerate(pool.file_names)]
    assert contents[0] == coco.render(CLASSES, task_name(pool.provenance), entries, images)
    ids = [annotation["id"] for annotation in json.loads(contents[0])["annotations"]]
    assert ids == list(range(1, len(ids) + 1)) and len(ids) == sum(len(image.boxes) for image in images)


def test_the_boxes_of_all_images_are_not_held_in_memory(tmp_path: Path) -> None:
    made_with, peaks, sizes = replace(MADE_WITH, class_names=CLASSES), [], []
    for count in (240, 960):
        output = OwnedOutput(LocalFolder(str(tmp_path / str(count))))
        rows = [row(f"{number:04}.jpg", boxes=150, seed=number % 7) for number in range(count)]
        for start in range(0, count, 10):
            parts.write(output, rows[start : start + 10], made_with)
        pool = pools.load(output, [Entry(each.file_name, each.etag, each.byte_size) for each in rows])
        exports.write_all_images(output, pool, uri_of)  # imports, and fills what is kept for all runs
        output.delete(exports.ALL_IMAGES)  # up to 64 MB of an earlier file are read at once
        tracemalloc.start()
        exports.write_all_images(output, pool, uri_of)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append((tmp_path / str(count) / exports.ALL_IMAGES).stat().st_size)
    assert sizes[1] - sizes[0] > 4_000_000
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 5, (sizes, peaks)


def test_labelformat_reads_coco(tmp_path: Path) -> None:
    output, pool, found = filled(tmp_path, SIZED)
    exports.write(output, pool, SIZED[:5], uri_of, found, ["coco"])
    check(by_labelformat(COCOObjectDetectionInput(tmp_path / "exports/coco.json")), found, SIZED[:5], scores=True)


def test_the_job_reads_its_own_file(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    reading = external.read(json.loads((folder.parent / "predictions/coco.json").read_text()), "coco.json", None)
    assert reading.class_names == CLASSES
    back: Found = {}
    for batch in reading.batches:
        ends = np.cumsum(batch.counts)
        for image, end, count in zip(batch.images, ends, batch.counts, strict=True):
            of_image = slice(end - count, end)
            columns = (batch.classes[of_image], batch.scores[of_image], batch.boxes[of_image])
            rows = zip(*(each.tolist() for each in columns), strict=True)
            back[image.file_name] = [(CLASSES[kind], score, box) for kind, score, box in rows]
    check(back, found, NAMES, scores=True)


def test_images_are_taken_one_after_the_other_and_not_kept() -> None:
    alive: list[weakref.ref[DetectedImage]] = []

    def images() -> Iterator[DetectedImage]:
        for number in range(20):
            assert sum(each() is not None for each in alive) <= 1
            image = one_image(np.array([[1, 2, 3, 4]]), number=number)
            alive.append(weakref.ref(image))
            yield image

    assert len(json.loads(coco.render(CLASSES, "m", [], images()))["annotations"]) == 20


def test_labelformat_reads_yolo(exported: tuple[Path, dict[str, Detections]], tmp_path: Path) -> None:
    folder, found = exported
    yolo = tmp_path / "yolo"
    shutil.copytree(folder / "yolo", yolo)
    content = yaml.safe_load((yolo / "data.yaml").read_text())
    assert content == {"train": "train.txt", "val": "train.txt", "names": dict(enumerate(CLASSES))}
    listed = [json.loads(line) for line in (yolo / "images.jsonl").read_text().splitlines()]
    assert [each["file_name"] for each in listed] == SIZED
    assert all(each["uri"] == uri_of(each["file_name"]) for each in listed)
    assert (yolo / "train.txt").read_text().splitlines() == [f"./{each['image']}" for each in listed]
    place = {each["file_name"]: each["image"] for each in listed}
    assert place["sub/a.jpg"] == "images/sub/a.jpg" and place["ä ö.jpg"] == "images/ä ö.jpg"
    assert place["a.jpg"] == "images/a.jpg" and place["a.png"] == "images/a.png.png"
    assert place["images/train/i.jpg"] == "images/train/i.jpg" != place["train/images/i.jpg"]
    labels = {each["label"] for each in listed}
    assert {each.relative_to(yolo).as_posix() for each in (yolo / "labels").rglob("*.txt")} == labels
    assert (yolo / f"labels/{Path(place['no detections.jpg']).stem}.txt").read_bytes() == b""
    for each in listed:
        assert label_by_ultralytics(str(yolo / each["image"])) == str(yolo / each["label"])

    # labelformat takes a folder for the images, and only those with a known extension.
    (yolo / "folder.yaml").write_text(yaml.safe_dump(content | {"train": "images"}))
    encoded = cv2.imencode(".png", picture(0, HEIGHT, WIDTH))[1].tobytes()
    names = [name for name in SIZED if place[name].endswith((".jpg", ".png", ".tiff"))]
    assert len(SIZED) - len(names) == 1
    for name in names:
        (yolo / place[name]).parent.mkdir(parents=True, exist_ok=True)
        (yolo / place[name]).write_bytes(encoded)
    back = by_labelformat(YOLOv8ObjectDetectionInput(yolo / "folder.yaml", "train"))
    check({name: back.pop(place[name].removeprefix("images/")) for name in names}, found, names, scores=False)
    assert not back


def label_by_ultralytics(image: str) -> str:
    """Where Ultralytics looks for the labels of an image."""
    swapped = "/labels/".join(image.rsplit("/images/", 1))
    folder, _, last = swapped.rpartition("/")
    # It takes what is behind the last dot of the path, and no image that has none in its name.
    return (swapped.rsplit(".", 1)[0] if "." in last else f"{folder}/{last}") + ".txt"


def test_what_yolo_says_is_within_the_image(exported: tuple[Path, dict[str, Detections]]) -> None:
    for path in (exported[0] / "yolo/labels").rglob("*.txt"):
        for line in path.read_text().splitlines():
            kind, *values = line.split()
            assert int(kind) < len(CLASSES) and len(values) == 4 and all(0 <= float(value) <= 1 for value in values)


def test_labelformat_reads_pascal_voc(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    back: Found = {}
    for each in {path.parent for path in (folder / "voc").rglob("*.xml")}:
        back |= by_labelformat(PascalVOCObjectDetectionInput(each, ",".join(CLASSES)))
    check(back, found, SIZED, scores=False)
    for path in (folder / "voc").rglob("*.xml"):
        root = parsed(path.read_bytes())
        name = root.findtext("filename", "")
        assert root.findtext("path") == uri_of(name)
        assert (root.findtext("size/width"), root.findtext("size/height")) == (str(WIDTH), str(HEIGHT))
        scores = [float(each.text or "") for each in root.findall("object/score")]
        np.testing.assert_allclose(scores, found[name].scores, atol=1e-6)
        assert "after its EXIF orientation" in root.findtext("source/annotation", "")
    assert (folder / "voc/a.xml").exists() and (folder / "voc/a.png.xml").exists()


def test_labelformat_reads_cvat(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    check(by_labelformat(CVATObjectDetectionInput(folder / "cvat.xml")), found, SIZED, scores=False)


def test_what_cvat_says_beside_the_boxes(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    root = parsed((folder / "cvat.xml").read_bytes())
    assert root.findtext("version") == "1.1"
    assert [each.findtext("name") for each in root.findall("meta/task/labels/label")] == list(CLASSES)
    assert {each.text for each in root.findall("meta/task/labels/label/attributes/attribute/name")} == {"score"}
    assert "after its EXIF orientation" in root.findtext("meta/note", "")
    places = sorted(NAMES, key=str.encode)
    for image in root.findall("image"):
        assert places[int(image.attrib["id"])] == image.attrib["name"]
        assert (image.attrib["width"], image.attrib["height"]) == (str(WIDTH), str(HEIGHT))
        for box in image.findall("box"):
            assert box.attrib.keys() == {"label", "source", "occluded", "xtl", "ytl", "xbr", "ybr", "z_order"}
        scores = [float(each.text or "") for each in image.findall("box/attribute[@name='score']")]
        np.testing.assert_allclose(scores, found[image.attrib["name"]].scores, atol=1e-6)


def test_the_labels_of_cvat_pass_its_own_checks(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, _ = exported
    labels = json.loads((folder / "cvat_labels.json").read_text())
    in_xml = parsed((folder / "cvat.xml").read_bytes()).findall("meta/task/labels/label/name")
    assert [label["name"] for label in labels] == [each.text for each in in_xml] == list(CLASSES)
    # As cvat-ui/src/components/labels-editor/common.ts checks a raw label.
    for label in labels:
        assert label["name"].strip() and isinstance(label["attributes"], list) and "id" not in label
        (attribute,) = label["attributes"]
        assert attribute["name"] == "score" and attribute["mutable"] is False
        assert attribute["input_type"] in ("checkbox", "number", "text", "radio", "select")
        assert attribute["values"] == [""]  # at least one, all of them texts


def test_the_tasks_of_label_studio_and_their_configuration(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    text = (folder / "label_studio.xml").read_text()
    assert text.startswith("<View>")  # Label Studio refuses a declaration of the encoding
    view = parsed(text.encode())
    assert [each.tag for each in view] == ["Image", "RectangleLabels"]
    image, labels = view
    assert image.attrib == {"name": "image", "value": "$image"}
    assert labels.attrib == {"name": "label", "toName": "image"}
    assert [each.attrib["value"] for each in labels] == list(CLASSES)

    back: Found = {}
    tasks = json.loads((folder / "label_studio.json").read_text())
    assert [task["data"]["file_name"] for task in tasks] == NAMES
    for task in tasks:
        name = task["data"]["file_name"]
        assert task["data"]["image"] == uri_of(name)  # a bucket; local files are in test_uris.py
        if name == "unsized.jpg":
            assert task.keys() == {"data"}
            continue
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == task_name(replace(MADE_WITH, class_names=CLASSES))
        assert len({each["id"] for each in prediction["result"]}) == len(prediction["result"])
        back[name] = [region(each) for each in prediction["result"]]
        scores = [score or 0 for _, score, _ in back[name]]
        assert prediction.get("score") == (pytest.approx(np.mean(scores), abs=1e-6) if scores else None)
    check(back, found, SIZED, scores=True)


def region(each: dict[str, Any]) -> tuple[str, float, list[float]]:
    """Class, score and box of a region of Label Studio's."""
    value = each["value"]
    assert (each["from_name"], each["to_name"], each["type"]) == ("label", "image", "rectanglelabels")
    assert (each["original_width"], each["original_height"], value["rotation"]) == (WIDTH, HEIGHT, 0)
    left, top = value["x"] / 100 * WIDTH, value["y"] / 100 * HEIGHT
    right, bottom = left + value["width"] / 100 * WIDTH, top + value["height"] / 100 * HEIGHT
    (kind,) = value["rectanglelabels"]
    return kind, each["score"], [left, top, right, bottom]


def test_fiftyone_gets_coco_and_where_the_images_are(exported: tuple[Path, dict[str, Detections]]) -> None:
    folder, found = exported
    content, back = by_pycocotools(folder / "fiftyone/labels.json")
    where = json.loads((folder / "fiftyone/data.json").read_text())
    name_of = {uri_of(name): name for name in NAMES}
    assert where.keys() == back.keys() and set(where.values()) == {uri_of(name) for name in SIZED}
    check({name_of[uri]: back[path] for path, uri in where.items()}, found, SIZED, scores=True)
    assert all(each["width"] == WIDTH and each["height"] == HEIGHT for each in content.imgs.values())
    assert where["sub/a.jpg"] == uri_of("sub/a.jpg") and where["a.png"] == uri_of("a.png")


def test_fiftyone_gets_samples_that_say_why_they_were_picked(tmp_path: Path) -> None:
    output, pool, found = filled(tmp_path, ["a.jpg", "sub/ä.jpg", "unsized.jpg"])
    picks = ["sub/ä.jpg", "a.jpg", "unsized.jpg"]
    shared: dict[str, Any] = {"value": 1.0, "nearest": None, "factors": {}, "boxes": []}
    selected = [
        Selected(rank=1, file_name=picks[0], score=0.5, distance=None, reason="first pick: ä", **shared),
        Selected(rank=2, file_name=picks[1], score=0.25, distance=1.5, reason="far", **shared),
    ]
    for uri_of, folder in ((lambda name: f"/in/{name}", "/in/"), (lambda name: f"s3://b/{name}", "../../selected/")):
        exports.write(output, pool, picks, uri_of, found, ["fiftyone"], selected=selected)
        samples = json.loads((tmp_path / "exports/fiftyone/samples.json").read_text())["samples"]
        assert [sample["filepath"] for sample in samples] == [f"{folder}sub/ä.jpg", f"{folder}a.jpg"]
        fields = ("file_name", "rank", "score", "reason", "distance")
        assert [[sample.get(name) for name in fields] for sample in samples] == [
            ["sub/ä.jpg", 1, 0.5, "first pick: ä", None],
            ["a.jpg", 2, 0.25, "far", 1.5],
        ]
        assert samples[0]["metadata"] == {"_cls": "ImageMetadata", "width": WIDTH, "height": HEIGHT}
        back: Found = {}
        for sample in samples:
            assert sample["predictions"]["_cls"] == "Detections"
            back[sample["file_name"]] = boxes = []
            for each in sample["predictions"]["detections"]:
                assert each["_cls"] == "Detection"
                left, top, width, height = np.array(each["bounding_box"]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
                boxes.append((each["label"], each["confidence"], [left, top, left + width, top + height]))
        check(back, found, picks[:2], scores=True)


def one_image(boxes: npt.NDArray[Any], number: int = 1, width: int = 100, height: int = 50) -> DetectedImage:
    boxes = boxes.astype(float)
    scores, classes = np.full(len(boxes), 0.5), np.zeros(len(boxes), np.int32)
    return DetectedImage(number, "a.jpg", "/in/a.jpg", width, height, boxes, scores, classes)


def of_boxes(boxes: list[list[float]], size: tuple[int, int], pool: Pool) -> DetectedImage:
    found = Detections(
        np.array(boxes, np.float32),
        np.linspace(1, 0, len(boxes), dtype=np.float32),
        np.arange(len(boxes), dtype=np.int32),
        np.empty((len(boxes), 4), np.float16),
    )
    return make_detected_image(replace(pool, size=np.full((len(pool.file_names), 2), size, np.int32)), 0, "uri", found)


def test_boxes_are_cut_at_the_borders_and_nothing_is_left_of_some(small: tuple[Storage, Pool]) -> None:
    boxes: list[list[float]] = [
        [-3, -2, 10.25, 20.5], [90, 40, 103.5, 60], [100, 0, 120, 10], [5, 5, 5, 9], [-9, 1, -1, 2], [5, 5, np.inf, 9]
    ]  # fmt: skip
    cut = of_boxes(boxes, (100, 50), small[1])
    assert cut.boxes.tolist() == [[0, 0, 10.25, 20.5], [90, 40, 100, 50], [5, 5, 100, 9]]
    assert (cut.num_cut, cut.num_dropped) == (3, 3)
    assert str(of_boxes([[-0.0001, -1, 9, 9]], (100, 50), small[1]).boxes.tolist()) == "[[0.0, 0.0, 9.0, 9.0]]"
    assert cut.classes.tolist() == [0, 1, 5] and cut.scores.tolist() == [1, 0.8, 0]
    whole = of_boxes(boxes, (0, 0), small[1])
    assert whole.boxes.tolist() == [[0, 0, 10.25, 20.5], [90, 40, 103.5, 60], [100, 0, 120, 10]]
    assert not whole.has_size
