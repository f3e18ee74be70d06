"""Names of CORAL_INPUT and those of another list: each way in which they can differ."""

import unicodedata

import pytest

from job.errors import SettingsError
from job.inputs.match import Match, compare
from job.storage import Entry, Listing

NFD = unicodedata.normalize("NFD", "ä.jpg")
ROOT = "/data/frames"


def listing(*files: str) -> Listing:
    return Listing.from_entries(Entry(file, "", 0) for file in files)


def match(names: list[str], files: list[str], input_uri: str = ROOT) -> Match:
    return compare("CORAL_LABELLED='l.txt'", names, listing(*files), input_uri)


@pytest.mark.parametrize(
    ("names", "files", "expected"),
    [
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg", "c.jpg"], {"b.jpg": "b.jpg", "a.jpg": "a.jpg"}),
        (["./a.jpg"], ["a.jpg"], {"./a.jpg": "a.jpg"}),
        (["d/../a.jpg", "d//b.jpg"], ["a.jpg", "d/b.jpg"], {"d/../a.jpg": "a.jpg", "d//b.jpg": "d/b.jpg"}),
        (["d\\a.jpg"], ["d/a.jpg"], {"d\\a.jpg": "d/a.jpg"}),
        (["ä.jpg"], [NFD], {"ä.jpg": NFD}),
        ([NFD], ["ä.jpg"], {NFD: "ä.jpg"}),
        (["/data/frames/d/a.jpg", "b"], ["d/a.jpg", "b"], {"/data/frames/d/a.jpg": "d/a.jpg", "b": "b"}),
        (["file:///data/frames/a.jpg"], ["a.jpg"], {"file:///data/frames/a.jpg": "a.jpg"}),
        # Folders at the beginning, which all names or all files have.
        (["images/a.jpg", "images/d/b"], ["a.jpg", "d/b"], {"images/a.jpg": "a.jpg", "images/d/b": "d/b"}),
        (["images\\a.jpg"], ["a.jpg"], {"images\\a.jpg": "a.jpg"}),
        (["/in/a.jpg"], ["a.jpg"], {"/in/a.jpg": "a.jpg"}),
        (["s3://other/x/a.jpg"], ["a.jpg"], {"s3://other/x/a.jpg": "a.jpg"}),
        (["C:\\data\\a.jpg"], ["a.jpg"], {"C:\\data\\a.jpg": "a.jpg"}),
        (["images/ä.jpg"], [NFD], {"images/ä.jpg": NFD}),
        (["a.jpg", "b.jpg"], ["d/a.jpg", "d/b.jpg", "d/c.jpg"], {"a.jpg": "d/a.jpg", "b.jpg": "d/b.jpg"}),
        (["a.jpg"], ["/far/a.jpg"], {"a.jpg": "/far/a.jpg"}),
        # The same name comes first, whatever else it may mean.
        (["d\\a.jpg"], ["d\\a.jpg", "d/a.jpg"], {"d\\a.jpg": "d\\a.jpg"}),
        (["ä.jpg", NFD], ["ä.jpg", NFD], {"ä.jpg": "ä.jpg", NFD: NFD}),
    ],
)  # fmt: skip
def test_names_that_mean_a_file(names: list[str], files: list[str], expected: dict[str, str]) -> None:
    found = match(names, files)
    assert found.file_names == expected and list(found.file_names) == names
    assert found.unknown == [] and found.cause == ""
    assert found.without == sorted(set(files) - set(expected.values()), key=str.encode)
    found.require_any()
    found.require_distinct()
    assert (found.describe_respelled() is None) == (list(expected) == list(expected.values()))


@pytest.mark.parametrize(
    ("names", "files", "cause"),
    [
        (["A.jpg", "b.JPG"], ["a.jpg", "b.jpg"], "2 of 2 such names differ from those of files in the case of letters"),
        (["a.png"], ["a.jpg"], "1 of 1 such names differ from those of files in the extension: 'a.png' and 'a.jpg'."),
        (["a"], ["a.jpg"], "in the extension: 'a' and 'a.jpg'."),
        # One of them is no file without the folder, so that the folder may mean something.
        (["images/a.jpg", "images/gone.jpg"], ["a.jpg"], "1 of 2 such names differ from those of files in the folder"),
        (["val/1.jpg"], ["train/1.jpg"], "in the folder: 'val/1.jpg' and 'train/1.jpg'."),
        (["1.jpg"], ["train/1.jpg", "val/1.jpg"], "in the folder: '1.jpg' and "),  # either of them
        (["b/a/1.jpg"], ["a/1.jpg", "1.jpg"], "in the folder: "),
        (["images/a.txt"], ["a.jpg"], "in the folder and the extension: "),
        (["A"], ["a.jpg"], "in the extension and the case of letters: 'A' and 'a.jpg'."),
        (["x/A.jpg"], ["a.jpg"], "in the folder and the case of letters: "),
        (["x.jpg"], ["a.jpg"], ""),
        (["\ud800.jpg"], ["a.jpg"], ""),
        (["ä.jpg"], ["./" + NFD, NFD], "in slashes or the form of Unicode"),  # either of them
    ],
)  # fmt: skip
def test_names_that_mean_no_file(names: list[str], files: list[str], cause: str) -> None:
    found = match(names, files)
    assert found.file_names == {} and found.unknown == names and found.without == sorted(files, key=str.encode)
    assert cause in found.cause and bool(cause) == bool(found.cause)
    with pytest.raises(SettingsError) as caught:
        found.require_any()
    (said,) = caught.value.problems
    assert caught.value.exit_code == 64
    images = "1 image" if len(names) == 1 else f"{len(names)} images"
    assert f"names {images}, and none of them is among the {len(files)} of CORAL_INPUT" in said
    assert repr(names[0]) in said and repr(files[0]) in said and found.cause in said


def test_some_names_are_unknown() -> None:
    found = match(["a.jpg", "old/1.jpg", "old/2.jpg", "B.jpg", "z"], ["a.jpg", "b.jpg", "c.jpg"])
    assert found.counts == {"matched": 1, "unknown": 4, "without": 2}
    found.require_any()
    assert found.describe_unknown() == (
        "CORAL_LABELLED='l.txt': 4 of 5 names are not in CORAL_INPUT and are left out: 'old/1.jpg', 'old/2.jpg', "
        "'B.jpg' and 1 more. 1 of 4 such names differ from those of files in the case of letters: 'B.jpg' and 'b.jpg'."
    )
    assert found.describe_without("prediction") == (
        "2 of 3 images of CORAL_INPUT have no prediction in CORAL_LABELLED='l.txt' and are never picked: 'b.jpg', "
        "'c.jpg'. failures.jsonl lists them."
    )


def test_folders_are_not_ignored_where_some_names_match() -> None:
    found = match(["a.jpg", "images/b.jpg"], ["a.jpg", "b.jpg"])
    assert found.file_names == {"a.jpg": "a.jpg"} and found.unknown == ["images/b.jpg"]
    assert "differ from those of files in the folder" in found.cause


def test_an_image_that_is_named_twice() -> None:
    found = match(["./a.jpg", "a.jpg"], ["a.jpg"])
    assert found.counts == {"matched": 1, "unknown": 0, "without": 0}
    with pytest.raises(SettingsError, match=r"names the image 'a.jpg' twice, as './a.jpg' and as 'a.jpg'"):
        found.require_distinct()
    assert match(["x/a.jpg", "x/./a.jpg"], ["a.jpg", "b.jpg"]).unknown == []


def test_names_below_a_bucket_or_a_list_of_files() -> None:
    assert match(["s3://b/in/a.jpg"], ["a.jpg"], "s3://b/in/").file_names == {"s3://b/in/a.jpg": "a.jpg"}
    files = ["a.jpg", "/data/frames/b.jpg", "s3://b/c.jpg"]
    found = match(["/data/frames/a.jpg", "b.jpg", "s3://b/c.jpg"], files, "/data/frames/list.txt")
    assert list(found.file_names.values()) == files and not found.ignores_folders


def test_a_long_name_is_cut_in_messages() -> None:
    found = match(["x" * 100_000], ["a.jpg"])
    with pytest.raises(SettingsError) as caught:
        found.require_any()
    assert len(str(caught.value)) < 600
