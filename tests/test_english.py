"""The language of the manual: few long sentences."""

import pytest

from scripts import english


def test_the_manual_has_few_long_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    code = english.main()
    assert code == 0, capsys.readouterr().out


def test_sentences_are_those_of_the_prose() -> None:
    page = """# A heading of a page. It does not count

One sentence goes
over two lines. The file `a b.txt` is [a link](https://example.org/a.b). Is e.g. this one?

- An item
  on two lines
- Another. With two sentences

| a table | with. many. stops |
|---|---|

    indented code. is. no prose

```bash
make demo. Or
```
<!-- A comment. -->
The version 0.1 is (really.) *Last.* The end
"""
    assert english.find_sentences(page) == [
        "One sentence goes over two lines.", "The file `a b.txt` is a link.", "Is e.g. this one?",
        "An item on two lines", "Another.", "With two sentences",
        "The version 0.1 is (really.", "*Last.", "The end",
    ]  # fmt: skip
    assert english.count_words("The file `a b.txt` is — a link.") == 6


def test_too_many_long_sentences_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(english, "find_sentences", lambda _: ["word " * 31, *["Short."] * 23])
    assert english.main() == 1
    monkeypatch.setattr(english, "find_sentences", lambda _: ["word " * 31, *["Short."] * 24])
    assert english.main() == 0
