"""What is left of a configuration with the parts is what detectron2 reads, and is never that of other settings."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.detect import config, described
from job.detect.described import Described
from job.storage.local import LocalFolder
from tests.conftest import ROOT, settings

YAML = ROOT / "demo/yolov3-tiny.yaml"


def test_it_is_what_detectron2_reads_whatever_changes(tmp_path: Path) -> None:
    output, model = LocalFolder(str(tmp_path / "out")), tmp_path / "model.yaml"
    model.write_text(YAML.read_text())
    names = [f"class {index}" for index in range(80)]
    changes: list[dict[str, Any]] = [
        {},
        {"score_threshold": 0.3},
        {"min_size": 100},
        {"max_size": 2000},
        {"classes": tuple(names)},
        {"model": "COCO-Detection/retinanet_R_50_FPN_1x.yaml"},
    ]
    for change in changes:
        chosen = settings(**{"model": str(model), "weights": "w"} | change)
        expected = config.read(chosen)
        for _ in range(2):
            assert described.describe(chosen, output) == Described(expected.sha256, expected.class_names)
            described.leave(chosen, output)
    files = list((tmp_path / "out/parts").iterdir())
    assert len(files) == len(changes)
    model.write_text(YAML.read_text().replace("NUM_CLASSES: 80", "NUM_CLASSES: 3"))
    chosen = settings(model=str(model), weights="w")
    assert described.describe(chosen, output).sha256 == config.read(chosen).sha256
    for file in files:
        file.write_bytes(b"[]")
    assert described.describe(settings(model=str(model), weights="w"), output).sha256 == config.read(chosen).sha256


def test_of_a_file_that_is_based_on_others_nothing_is_left(tmp_path: Path) -> None:
    output = LocalFolder(str(tmp_path / "out"))
    (tmp_path / "base.yaml").write_text(YAML.read_text())
    model = tmp_path / "model.yaml"
    model.write_text("_BASE_: base.yaml\n")
    chosen = settings(model=str(model), weights="w")
    assert described.describe(chosen, output).sha256 == config.read(chosen).sha256
    described.leave(chosen, output)
    assert not (tmp_path / "out").exists()


def test_a_second_look_imports_no_detector(tmp_path: Path) -> None:
    code = (
        "import sys, json\nfrom job.detect import described\nfrom job.settings.resolve import resolve\n"
        "from job.storage.local import LocalFolder\n"
        f"chosen = resolve({{}}, {{'CORAL_INPUT': 'in', 'CORAL_OUTPUT': 'out', 'CORAL_MODEL': {str(YAML)!r}, "
        "'CORAL_WEIGHTS': 'w'})\n"
        f"output = LocalFolder({str(tmp_path)!r})\n"
        "found = described.describe(chosen, output)\ndescribed.leave(chosen, output)\n"
        "print(json.dumps([found.sha256, 'torch' in sys.modules, 'detectron2' in sys.modules]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    first, second = (
        json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
        for _ in range(2)
    )
    assert first[0] == second[0] and first[1:] == [True, True] and second[1:] == [False, False]


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"sha256": "1", "class_names": 5}'])
def test_a_damaged_file_is_written_again(tmp_path: Path, content: bytes) -> None:
    output, chosen = LocalFolder(str(tmp_path)), settings(model=str(YAML), weights="w")
    expected = described.describe(chosen, output)
    assert not (tmp_path / "parts").exists()  # nothing is written before it is certain what the parts are of
    described.leave(chosen, output)
    (file,) = (tmp_path / "parts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert described.describe(chosen, output) == expected and file.read_bytes() == content
    described.leave(chosen, output)
    assert file.read_bytes() == whole
