"""An export format is one record: everything else follows from the table."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pytest

from job import exports
from job.exports import table
from job.exports.detected import Export
from job.exports.format import Format, ImageFiles
from job.settings import choices
from tests.exports.test_paths import tree
from tests.exports.test_writing import NAMES, filled, uri_of


def _render(export: Export) -> Iterator[tuple[str, bytes]]:
    yield "toy.txt", f"{len(export.sized_images)} of {len(export.images)}\n".encode()
    for image in export.sized_images:
        yield f"toy/{image.number}.toy", image.file_name.encode()


TOY = Format(
    name="toy",
    title="Toy",
    render=_render,
    unsized="left out",
    is_xml=False,
    files=("toy.txt",),
    image_files=ImageFiles("toy/", ".toy"),
    summary="A format for tests.",
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format that is added the way a developer adds one."""
    monkeypatch.setitem(table.FORMATS, "toy", TOY)
    monkeypatch.setattr(choices, "EXPORT_FORMATS", (*choices.EXPORT_FORMATS, "toy"))


@pytest.mark.usefixtures("toy")
def test_a_new_format_is_one_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table.check_names()
    output, pool, detections = filled(tmp_path, ["a.jpg", "b.jpg", "unsized.jpg"])
    picks = ["b.jpg", "unsized.jpg", "a.jpg"]
    with caplog.at_level(logging.WARNING):
        exports.write(output, pool, picks, uri_of, detections, ["coco", "toy"])
    assert caplog.messages == ["1 of 3 picks have unknown width and height and are left out of toy."]
    written = tree(tmp_path / "exports")
    assert written.keys() == {"coco.json", "toy.txt", "toy/1.toy", "toy/2.toy"}
    assert (written["toy.txt"], written["toy/2.toy"]) == (b"2 of 3\n", b"b.jpg")

    (tmp_path / "exports/toy/notes.md").write_bytes(b"an annotator's work")
    exports.write(output, pool, ["a.jpg"], uri_of, detections, ["toy"])
    assert tree(tmp_path / "exports").keys() == {"toy.txt", "toy/1.toy", "toy/notes.md"}
    exports.write(output, pool, picks, uri_of, detections, ["coco"])
    assert tree(tmp_path / "exports").keys() == {"coco.json", "toy/notes.md"}

    last = exports.markdown_table().splitlines()[-1]
    assert last == "| `toy` | `toy.txt`, `toy/<image>.toy` | Toy | A format for tests. | left out |"


def test_a_format_without_a_name_in_the_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.FORMATS, "toy", TOY)
    with pytest.raises(RuntimeError, match=r"EXPORT_FORMATS in job/settings/choices\.py .*: list the same names"):
        table.check_names()


@pytest.mark.parametrize("name", exports.FORMATS)
def test_a_record_covers_every_file_of_its_format(name: str, tmp_path: Path) -> None:
    entry = exports.FORMATS[name]
    output, pool, detections = filled(tmp_path, NAMES)
    others = [None] * (len(NAMES) - 1)
    pool = replace(
        pool,
        frames={"video": pa.array(["a.mp4", *others]), "frame": pa.array([7, *others])}
        | {"time_s": pa.array([0.28, *others])},
    )
    exports.write(output, pool, NAMES, uri_of, detections, [name])
    written = tree(tmp_path / "exports").keys()
    of_images = {path for path in written if path not in entry.files}
    assert written - of_images == set(entry.files)
    if entry.image_files is None:
        assert not of_images
    else:
        folder, suffix = entry.image_files.folder, entry.image_files.suffix
        assert of_images and all(path.startswith(folder) and path.endswith(suffix) for path in of_images)
        assert PurePosixPath(folder).as_posix() + "/" == folder
