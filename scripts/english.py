"""Finds the long sentences of README.md and docs/: `.venv/bin/python -m scripts.english`.

At most 4 % of the sentences may have more than 30 words. Code, tables and headings do not count.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_WORDS = 30
MAX_SHARE = 0.04

_CODE = re.compile(r"^( *)(```|~~~).*?^\1\2[^\n]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ITEM = re.compile(r" *(?:[-*+]|\d+\.) +")
_END = re.compile(r"(?<=[.!?])[)*_\"']*\s+(?=[^a-z])")


def list_pages() -> list[Path]:
    """The pages that are checked."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def find_sentences(text: str) -> list[str]:
    """The sentences of a page in Markdown. An item of a list without a full stop is one sentence."""
    return [sentence for paragraph in _find_paragraphs(text) for sentence in _END.split(paragraph) if sentence]


def count_words(sentence: str) -> int:
    """The words of a sentence; one piece of `code` is one word."""
    return sum(any(map(str.isalnum, word)) for word in re.sub(r"`[^`]*`", "code", sentence).split())


def _find_paragraphs(text: str) -> Iterator[str]:
    text = _LINK.sub(r"\1", _COMMENT.sub("", _CODE.sub("\n", text)))
    lines: list[str] = []
    in_list = False
    for line in [*text.splitlines(), ""]:
        begins_item = _ITEM.match(line) is not None
        indented_code = line.startswith("    ") and not lines and not in_list
        if not line.strip() or begins_item or line.startswith(("|", "#")) or indented_code:
            if lines:
                yield " ".join(lines)
            lines = []
            if line.strip() and not line.startswith(" "):
                in_list = begins_item
        if line.strip() and not line.startswith(("|", "#")) and not indented_code:
            lines.append(_ITEM.sub("", line, count=1).strip() if begins_item else line.strip())


def main() -> int:
    """Prints the long sentences; returns 1 if they are too many."""
    total, long = 0, []
    for page in list_pages():
        sentences = find_sentences(page.read_text(encoding="utf-8"))
        total += len(sentences)
        long += [(page.relative_to(ROOT), sentence) for sentence in sentences if count_words(sentence) > MAX_WORDS]
    for name, sentence in long:
        print(f"{name}: {count_words(sentence)} words: {sentence}")
    print(
        f"{len(long)} of {total} sentences ({100 * len(long) / max(1, total):.1f} %) have more than {MAX_WORDS} words; "
        f"{100 * MAX_SHARE:.0f} % may."
    )
    return int(len(long) > MAX_SHARE * total)


if __name__ == "__main__":
    sys.exit(main())
