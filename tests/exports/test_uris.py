"""CORAL_IMAGES_AT: where others find the images, in every form of input and address."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from job import exports
from job.exports.uris import make_task_uri_builder, make_uri_builder
from tests.conftest import Job
from tests.exports.test_writing import filled
from tests.external import write_own_data

FORM = "/data/local-files/?d="


@pytest.mark.parametrize(
    ("input_uri", "images_at", "file_name", "uri", "task_uri"),
    [
        # A container's /in is of no use outside.
        ("/in", "/data/frames/", "sub/ä 1.jpg", "/data/frames/sub/ä 1.jpg", FORM + "data/frames/sub/%C3%A4%201.jpg"),
        ("/in", "/", "a.jpg", "/a.jpg", FORM + "a.jpg"),
        ("/in", "frames", "a.jpg", "frames/a.jpg", FORM + "frames/a.jpg"),
        ("/in", None, "a&b#1?.jpg", "/in/a&b#1?.jpg", FORM + "in/a%26b%231%3F.jpg"),
        ("s3://bucket/frames/", None, "ä 1.jpg", "s3://bucket/frames/ä 1.jpg", "s3://bucket/frames/ä 1.jpg"),
        ("/in", "s3://bucket/frames/", "ä 1.jpg", "s3://bucket/frames/ä 1.jpg", "s3://bucket/frames/ä 1.jpg"),
        ("/in", "https://cdn/x/", "a b#.jpg", "https://cdn/x/a%20b%23.jpg", "https://cdn/x/a%20b%23.jpg"),
        # Only Label Studio opens its own form.
        ("/in", FORM + "frames", "a b.jpg", "/in/a b.jpg", FORM + "frames/a%20b.jpg"),
        ("/in", FORM + "frames/", "a.jpg", "/in/a.jpg", FORM + "frames/a.jpg"),
        ("/in", FORM, "sub/a.jpg", "/in/sub/a.jpg", FORM + "sub/a.jpg"),
        ("s3://b/x", f"http://host:8080{FORM}x", "a.jpg", "s3://b/x/a.jpg", f"http://host:8080{FORM}x/a.jpg"),
        # In a list, names are relative to its folder, or have an address of their own.
        ("/in/list.txt", "/data", "sub/a.jpg", "/data/sub/a.jpg", FORM + "data/sub/a.jpg"),
        ("/in/list.txt", "/data", "/in/sub/a.jpg", "/data/sub/a.jpg", FORM + "data/sub/a.jpg"),
        ("/in/list.txt", "/data", "/other/a.jpg", "/other/a.jpg", FORM + "other/a.jpg"),
        ("/in/list.txt", "/data", "s3://b/a.jpg", "s3://b/a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists/all.jsonl", "/data", "a.jpg", "/data/a.jpg", FORM + "data/a.jpg"),
        ("s3://b/all.txt", "/data", "s3://b/x/a.jpg", "/data/x/a.jpg", FORM + "data/x/a.jpg"),
    ],
)
def test_where_an_image_is(input_uri: str, images_at: str | None, file_name: str, uri: str, task_uri: str) -> None:
    assert make_uri_builder(input_uri, images_at)(file_name) == uri
    assert make_task_uri_builder(input_uri, images_at)(file_name) == task_uri


@pytest.mark.parametrize("name", ["a.jpg", "ä ö.jpg", "a+b&c=d.jpg", "100%.jpg", "sub/#1?.jpg", "a;b.jpg"])
def test_label_studio_decodes_the_path_of_a_local_file(name: str) -> None:
    task_uri = make_task_uri_builder("/in/frames")(name)
    assert task_uri.startswith(FORM) and not urlsplit(task_uri).fragment
    assert parse_qs(urlsplit(task_uri).query)["d"] == [f"in/frames/{name}"]


def test_every_format_gets_the_address(tmp_path: Path) -> None:
    output, pool, detections = filled(tmp_path, ["a.jpg"])
    uri_of, task_uri_of = make_uri_builder("/in", "/data"), make_task_uri_builder("/in", FORM + "frames")
    exports.write(output, pool, ["a.jpg"], uri_of, detections, exports.FORMATS, task_uri_of=task_uri_of)
    folder = tmp_path / "exports"
    assert json.loads((folder / "coco.json").read_text())["images"][0]["coco_url"] == "/data/a.jpg"
    assert json.loads((folder / "yolo/images.jsonl").read_text())["uri"] == "/data/a.jpg"
    assert "<path>/data/a.jpg</path>" in (folder / "voc/a.xml").read_text()
    assert json.loads((folder / "fiftyone/data.json").read_text()) == {"a.jpg": "/data/a.jpg"}
    (task,) = json.loads((folder / "label_studio.json").read_text())
    assert task["data"] == {"image": FORM + "frames/a.jpg", "file_name": "a.jpg"}


def test_a_run_names_the_images_where_others_find_them(job: Job, tmp_path: Path) -> None:
    given = write_own_data(tmp_path) | {"CORAL_IMAGES_AT": "/data/frames"}
    finished = job("select", **given)
    assert finished.returncode == 0, finished.stderr
    out = tmp_path / "out"
    for name in ("exports/coco.json", "predictions/coco.json"):
        images = json.loads((out / name).read_text())["images"]
        assert {image["coco_url"] for image in images} == {f"/data/frames/{image['file_name']}" for image in images}
    for path in (out / "exports").rglob("*"):
        assert not path.is_file() or "not there" not in path.read_text()
    assert re.search(r'"image": "/data/local-files/\?d=data/frames/', (out / "exports/label_studio.json").read_text())
