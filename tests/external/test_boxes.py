"""Boxes and sizes of predictions beside the files of their images: through `check` and `select`, and by themselves."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from job.errors import SettingsError
from job.external import InputImages
from job.external.boxes import check_boxes
from job.external.take_in import compare_rows
from job.inputs import list_names
from job.storage.local import LocalFolder
from tests.conftest import Job, settings
from tests.external import Json, in_file, in_parquet, own_coco, read

WIDTH, HEIGHT, COUNT = 640, 272, 12


def save(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    path.parent.mkdir(exist_ok=True)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", size, (90, 60, 30)).save(path, exif=exif)


def detections(*, sized: bool = True) -> Json:
    """Three boxes on each image, spread over it."""
    rng = np.random.default_rng(5)
    content = own_coco(COUNT)
    content["annotations"] = []
    for image in content["images"]:
        for side in ("width", "height"):
            del image[side]
        if sized:
            image |= {"width": WIDTH, "height": HEIGHT}
        for _ in range(3):
            left, top = rng.uniform(0, [WIDTH - 90, HEIGHT - 60]).round().tolist()
            content["annotations"].append(
                {"image_id": image["id"], "category_id": 1, "bbox": [left, top, 90, 60], "score": 0.5}
            )
    return content


def change_boxes(content: Json, change: Callable[..., list[float]]) -> Json:
    for annotation in content["annotations"]:
        annotation["bbox"] = change(*annotation["bbox"])
    return content


def to_fractions(left: float, top: float, width: float, height: float) -> list[float]:
    return [left / WIDTH, top / HEIGHT, width / WIDTH, height / HEIGHT]


def to_corners(left: float, top: float, width: float, height: float) -> list[float]:
    return [left, top, left + width, top + height]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        save(tmp_path / "in" / f"{number}.jpg")
    return tmp_path / "in"


def find_doubts(folder: Path, predictions: Path) -> list[str]:
    stop, ours = threading.Event(), settings(input=str(folder), predictions=str(predictions))
    files = list_names(ours, stop)
    found = read(predictions, ("car", "dog") if predictions.suffix == ".parquet" else None)
    match = compare_rows(ours, files, (row.file_name for row in found.rows))
    return check_boxes(found.rows, found.layout, match, InputImages(ours, files, stop))


def refuse(folder: Path, predictions: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        find_doubts(folder, predictions)
    assert caught.value.exit_code == 64
    (problem,) = caught.value.problems
    assert problem.startswith(f"CORAL_PREDICTIONS={str(predictions)!r}: ")
    return problem


@pytest.mark.parametrize("sized", [True, False])
def test_true_boxes_give_no_warning(folder: Path, tmp_path: Path, sized: bool) -> None:
    assert find_doubts(folder, in_file(tmp_path, detections(sized=sized))) == []


@pytest.mark.parametrize("sized", [True, False])
def test_fractions_and_corners_are_refused(folder: Path, tmp_path: Path, sized: bool) -> None:
    content = detections(sized=sized)
    said = refuse(folder, in_file(tmp_path, change_boxes(content, to_fractions)))
    assert "36 of 36 boxes are in the first pixel of their images: '0.jpg' (640x272 pixels) has the box [0.6" in said
    content = detections(sized=sized)
    said = refuse(folder, in_file(tmp_path, change_boxes(content, to_corners)))
    assert "They fit if they are read as [left, top, right, bottom]: write each box as [left, top, width, h" in said


def test_check_and_select_refuse_such_boxes_before_any_work(folder: Path, job: Job, tmp_path: Path) -> None:
    path = in_file(tmp_path, change_boxes(detections(), to_fractions))
    given = {"CORAL_INPUT": folder, "CORAL_OUTPUT": tmp_path / "out", "CORAL_PREDICTIONS": path}
    for command in ("check", "select"):
        refused = job(command, **given, CORAL_STRATEGY="active_learning", CORAL_N_SAMPLES=3)
        assert refused.returncode == 64, refused.stderr
        assert "These look like fractions of width and height: give boxes in pixels." in refused.stderr
    assert not list(tmp_path.glob("out/parts/*"))


def test_select_counts_single_boxes_that_are_cut_or_left_out(folder: Path, job: Job, tmp_path: Path) -> None:
    content = detections()
    content["annotations"][0] |= {"bbox": [-5, -5, 700, 300], "score": 0.9}  # larger than the image
    content["annotations"][3] |= {"bbox": [900, 10, 50, 50], "score": 0.9}  # beside the image
    content["annotations"][6] |= {"bbox": [10, 10, 0, 0], "score": 0.9}  # empty
    path = in_file(tmp_path, content)
    given = {"CORAL_INPUT": folder, "CORAL_OUTPUT": tmp_path / "out", "CORAL_PREDICTIONS": path}
    for command in ("check", "select"):
        done = job(command, **given, CORAL_STRATEGY="active_learning", CORAL_N_SAMPLES=COUNT)
        assert done.returncode == 0, done.stderr
        assert "reach far outside" not in done.stderr
    assert "of 36 boxes on the picks are in the exports; 1 of these were cut at the edge of their image." in done.stderr
    assert "2 outside their image or empty." in done.stderr
    assert (
        "predictions/coco.json: 1 of 36 boxes were cut at the edge of their image, and 2 outside it or empty were "
        in (done.stderr)
    )


def test_sizes_before_the_exif_orientation(folder: Path, tmp_path: Path) -> None:
    """The files are stored as 640x272 pixels and turned to 272x640; the boxes are of the stored pixels."""
    for number in range(COUNT):
        save(folder / f"{number}.jpg", orientation=6)
    for sized in (True, False):
        said = refuse(folder, in_file(tmp_path, detections(sized=sized)))
        assert "boxes on images with an EXIF orientation reach far outside these images: " in said
        assert "(272x640 pixels)" in said and "All fit the images as they are stored." in said


def test_wrong_sizes_beside_true_boxes_are_a_warning(folder: Path, tmp_path: Path) -> None:
    content = detections()
    for annotation in content["annotations"]:
        annotation["bbox"][:2] = [min(side, 100) for side in annotation["bbox"][:2]]
    content["images"][3] |= {"width": HEIGHT, "height": WIDTH}
    (warning,) = find_doubts(folder, in_file(tmp_path, content))
    assert warning.endswith(
        "1 of 12 images has another size in its file than in the predictions: '3.jpg' has 640x272 pixels, not "
        "272x640. Width and height are exchanged: correct them."
    )
    save(folder / "3.jpg", (HEIGHT, WIDTH), orientation=8)
    content["images"][3] |= {"width": HEIGHT, "height": WIDTH}
    (warning,) = find_doubts(folder, in_file(tmp_path, content))
    assert "These are the sizes before the EXIF orientation." in warning
    save(folder / "3.jpg", (100, 100))
    (warning,) = find_doubts(folder, in_file(tmp_path, content))
    assert "'3.jpg' has 100x100 pixels, not 272x640. These may be other images of the same names" in warning


@pytest.mark.parametrize("factor", [0.5, 3])
def test_predictions_of_a_resized_copy(folder: Path, tmp_path: Path, factor: float) -> None:
    for number in range(COUNT):
        save(folder / f"{number}.jpg", (round(WIDTH * factor), round(HEIGHT * factor)))
    (warning,) = find_doubts(folder, in_file(tmp_path, detections()))
    assert "12 of 12 images have another size" in warning and "are of copies of another size" in warning
    without_sizes = in_file(tmp_path, detections(sized=False))
    if factor < 1:
        assert "of other images or of copies that are up to 2 times as large" in refuse(folder, without_sizes)
    else:
        assert find_doubts(folder, without_sizes) == []  # objects may well be in one corner


def test_boxes_of_the_files_beside_sizes_of_a_copy(folder: Path, tmp_path: Path) -> None:
    content = detections()
    for image in content["images"]:
        image |= {"width": WIDTH // 4, "height": HEIGHT // 4}
    (warning,) = find_doubts(folder, in_file(tmp_path, content))
    assert "12 of 12 images have another size in their files than in the predictions: '0.jpg' has 640x272" in warning
    assert warning.endswith("The boxes fit the files: correct the sizes in the predictions, or leave them out.")


def test_parquet_with_sizes_instead_of_corners(folder: Path, tmp_path: Path) -> None:
    def table(box: list[float]) -> Path:
        columns = {"file_name": [f"{number}.jpg" for number in range(COUNT)], "scores": [[0.5]] * COUNT}
        return in_parquet(tmp_path, columns | {"boxes": [[box]] * COUNT, "classes": [[0]] * COUNT})

    assert find_doubts(folder, table([300, 20, 390, 80])) == []
    with pytest.raises(SettingsError, match=r"whose sides are swapped.*This one may be \[left, top, width, height\]\."):
        find_doubts(folder, table([300, 20, 90, 60]))


def test_at_most_32_files_are_read_and_none_of_a_list(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_keys = []
    whole = LocalFolder.read

    def count(self: LocalFolder, key: str, etag: str | None = None) -> bytes:
        read_keys.append(key)
        return whole(self, key, etag)

    content = detections()
    for number in range(COUNT, 100):
        save(folder / f"{number}.jpg")
        content["images"].append({"id": number, "file_name": f"{number}.jpg"})
        content["annotations"].append({"image_id": number, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5})
    path = in_file(tmp_path, content)
    monkeypatch.setattr(LocalFolder, "read", count)
    assert find_doubts(folder, path) == []
    assert len([key for key in read_keys if key.endswith(".jpg")]) == 32
    read_keys.clear()
    (tmp_path / "images.txt").write_text("".join(f"{number}.jpg\n" for number in range(100)))
    assert find_doubts(tmp_path / "images.txt", path) == []
    assert [key for key in read_keys if key.endswith(".jpg")] == []


def test_files_that_cannot_be_read_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "3.jpg").write_bytes(b"no image")
    (warning,) = find_doubts(folder, in_file(tmp_path, detections()))
    assert "The boxes on 1 of 12 images were not compared with the files, which cannot be read: '3.jpg': not" in warning
