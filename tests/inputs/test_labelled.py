"""CORAL_LABELLED in every form, with every way in which its names can differ from those of the files."""

import csv
import errno
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from job import names
from job.columns import NAME_COLUMNS
from job.errors import AccessDenied, JobError, ServiceUnavailable, SettingsError, Stopped
from job.inputs import labelled
from job.storage import Entry, Listing, open_folder
from job.storage.local import LocalFolder
from tests.conftest import S3

FILES = ["d/ä, b.jpg", "a.jpg", "c.jpg"]


def as_csv(listed: list[str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["rank", "file_name", "reason"])
    writer.writeheader()
    writer.writerows({"rank": 1, "file_name": name, "reason": "a\nb"} for name in listed)
    return text.getvalue()


FORMS: dict[str, Callable[[list[str]], str]] = {
    "names": names.dump,
    "a.txt": lambda listed: "\ufeff" + names.dump(listed).replace("\n", "\r\n"),
    "a.csv": as_csv,
    "bom.csv": lambda listed: "\ufeff" + as_csv(listed),
    "a.jsonl": lambda listed: "\n".join(json.dumps({"file_name": name, "rank": 1}) for name in listed),
    "strings.jsonl": lambda listed: "\n\n".join(map(json.dumps, listed)) + "\n",
    "list.json": json.dumps,
    "coco.json": lambda listed: json.dumps({"images": [{"id": 1, "file_name": name} for name in listed]}),
    "coco without extension": lambda listed: json.dumps({"info": 1, "images": [{"file_name": x} for x in listed]}),
    "output/selected.txt": names.dump,
}  # fmt: skip
SPELLINGS: dict[str, Callable[[str], str]] = {
    "the same": lambda name: name,
    "backslashes": lambda name: name.replace("/", "\\"),
    "absolute": lambda name: f"/data/frames/{name}",
    "prefix": lambda name: f"images/{name}",
    "container": lambda name: f"/in/{name}",
}


def write(folder: Path, form: str, listed: list[str]) -> str:
    path = folder / form
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(FORMS[form](listed).encode())
    return str(path.parent if form.startswith("output/") else path)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_form_and_spelling(tmp_path: Path, form: str, spelling: str) -> None:
    listing = Listing.from_entries(Entry(file, "", 0) for file in FILES)
    uri = write(tmp_path, form, [SPELLINGS[spelling](file) for file in FILES[:2]])
    match = labelled.match(uri, listing, "/data/frames")
    assert list(match.file_names.values()) == FILES[:2]
    assert match.counts == {"matched": 2, "unknown": 0, "without": 1}
    gone = write(tmp_path, form, [*FILES[:2], "old.jpg"])
    assert labelled.match(gone, listing, "/data/frames").unknown == ["old.jpg"]


@pytest.mark.parametrize("title", NAME_COLUMNS)
def test_the_usual_names_of_the_column(tmp_path: Path, title: str) -> None:
    """As in files of metadata and embeddings; ``file_name`` counts if there are several."""
    content = {
        "a.csv": f"rank,{title}\n1,a.jpg\n",
        "a.jsonl": json.dumps({title: "a.jpg", "rank": 1}),
        "a.json": json.dumps([{title: "a.jpg"}]),
        "coco.json": json.dumps({"images": [{"id": 1, title: "a.jpg"}]}),
        "both.csv": "path,file_name\nb.jpg,a.jpg\n",
        "both.jsonl": json.dumps({"path": "b.jpg", "file_name": "a.jpg"}),
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text)
        assert labelled.read(str(tmp_path / name)) == ["a.jpg"]


def test_an_output_in_a_bucket(seaweedfs: S3) -> None:
    open_folder(seaweedfs.uri("earlier")).write("selected.txt", b"a.jpg\n")
    assert labelled.read(seaweedfs.uri("earlier")) == labelled.read(seaweedfs.uri("earlier/")) == ["a.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "rank,label\n1,a.jpg\n", "it has no column file_name, only rank, label"),
        ("a.csv", "path,image\n1,a.jpg\n", "it has the columns 'path' and 'image', and either could be meant"),
        ("a.csv", "", "it has no column file_name, only none at all"),
        ("a.jsonl", '{"file_name": "a.jpg"}\n{"title": "b.jpg"}\n', "entry 2 has no column file_name, only title"),
        ("a.jsonl", '{"file_name": "a.jpg"}\n{"file_name": 7}\n', "entry 2 has no file_name: {'file_name': 7}"),
        ("a.json", '[{"path": "a.jpg", "image": "b.jpg"}]', "entry 1 has the columns 'path' and 'image'"),
        ("a.jsonl", "{", "cannot be read: Expecting property name"),
        ("a.json", "[1]", "entry 1 has no file_name: 1"),
        ("a.json", '{"a": 1}', "it is JSON without images that have a file_name"),
        ("a.json", "a.jpg", "it is not valid JSON"),
        ("a.jsonl", "[" * 100_000, "maximum recursion depth exceeded"),
        ("a.txt", '{"info": {}, "categories": [' + ", ".join(["{}"] * 100_000) + "]}", "it is JSON without images"),
        ("a.txt", b"\xff\xfe", "codec can't decode"),
        ("none.txt", None, "No such file or directory"),
        ("", None, "Is a directory"),
    ],
)
def test_what_is_no_list_is_refused_in_one_short_sentence(
    tmp_path: Path, name: str, content: str | bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError) as caught:
        labelled.read(str(tmp_path / name))
    (said,) = caught.value.problems
    assert says in said and said.startswith("CORAL_LABELLED=") and len(said) < 600 and "\n" not in said
    assert "an earlier CORAL_OUTPUT" in said


def test_a_name_that_looks_like_json_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("[1].jpg\n{a}.jpg\n")
    assert labelled.read(str(tmp_path / "a.txt")) == ["[1].jpg", "{a}.jpg"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServiceUnavailable("no answer"), ServiceUnavailable),
        (AccessDenied("no permission"), AccessDenied),
        (PermissionError(errno.EACCES, "Permission denied"), AccessDenied),
        (Stopped("as asked"), Stopped),
    ],
)
def test_picks_that_cannot_be_read_now_are_no_wrong_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, kind: type[JobError | Stopped]
) -> None:
    read = LocalFolder.read

    def fail(folder: LocalFolder, key: str, etag: str | None = None) -> bytes:
        if key == "selected.txt":
            raise error
        return read(folder, key, etag)

    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "selected.txt").write_text("a.jpg\n")
    monkeypatch.setattr(LocalFolder, "read", fail)
    with pytest.raises(kind):
        labelled.read(str(tmp_path / "output"))
