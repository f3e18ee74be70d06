"""Lists of file names: every name survives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job import names

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
