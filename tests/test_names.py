"""Lists of file names: every name survives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import names
from job.errors import SettingsError, one_line

ANY_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(st.lists(ANY_NAME))
def test_every_name_survives(given_names: list[str]) -> None:
    assert names.parse(names.dump(given_names)) == given_names


def test_an_ordinary_list_is_plain_text() -> None:
    ordinary = ["a.jpg", "with space, comma.jpg", "naïve/日本.png", "semi;quote'.jpg", " leading.jpg"]
    assert names.dump(ordinary) == "".join(f"{name}\n" for name in ordinary)


def test_a_list_from_another_editor() -> None:
    assert names.parse("\ufeffa.jpg\r\n\r\nb.jpg") == ["a.jpg", "b.jpg"]


def test_a_broken_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="Unterminated"):
        names.parse('"a.jpg')


def test_a_message_shows_the_first_80_characters_with_escapes() -> None:
    assert names.shorten("a" * 80) == repr("a" * 80) and names.shorten("ä\r\x1b") == r"'ä\r\x1b'"
    assert names.shorten("a" * 81) == repr("a" * 80) + "..." and names.shorten([1] * 99).endswith("1...")
    assert names.shorten_text("ö b\n\u2028") == r"ö b\n\u2028" and names.shorten_text("a" * 81) == "a" * 80 + "..."
    assert names.list_first(["a\tb", "c" * 100]) == rf"a\tb, {'c' * 80}"
    assert names.escape("b" * 200 + "\0") == "b" * 200 + r"\x00"


def test_texts_of_libraries_are_cut_and_our_own_are_not() -> None:
    assert one_line(ValueError("a\n b \x1b" + "c" * 1000)) == r"a b \x1b" + "c" * 295 + "..."
    assert one_line(SettingsError("a" * 1000)) == "a" * 1000
    assert one_line(ValueError()) == "ValueError"


def test_one_image_is_not_one_images() -> None:
    assert [names.quantify(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert names.quantify(1, "box is", "boxes are") == "1 box is"
    assert names.quantify(2, "box is", "boxes are") == "2 boxes are"
