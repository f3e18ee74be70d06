"""Compares the images of CORAL_INPUT with another list of names, so that no name is lost without a word.

A name is an image's if it is the file's name, or if both mean the same path: with backslashes, ``./``, another Unicode
form, or absolute below CORAL_INPUT. If no name matches in this way, folders at the beginning of all names, or of all
files, are ignored, provided that every name then fits one file of its own and no other folders would fit, too. Case and
extensions are never ignored: they are only reported as the likely cause.
"""

import logging
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from job.errors import SettingsError
from job.names import is_text, quantify, shorten
from job.storage import Listing
from job.uris import Location, normalize

logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3
_MAX_SAMPLE = 1000  # names that the cause is looked for with
_MAX_PREFIXES = 100
_ODD_PATH = r"\\|//|(^|/)\.\.?(/|$)|^/|:/"  # paths that may have a simpler spelling

_CAUSES: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("slashes or the form of Unicode", lambda names: names),
    ("the case of letters", pc.utf8_lower),
    ("the extension", lambda names: _strip_extension(names)),
    ("the extension and the case of letters", lambda names: pc.utf8_lower(_strip_extension(names))),
    ("the folder", lambda names: _strip_folder(names)),
    ("the folder and the case of letters", lambda names: pc.utf8_lower(_strip_folder(names))),
    ("the folder and the extension", lambda names: _strip_extension(_strip_folder(names))),
)


@dataclass(frozen=True)
class Match:
    """How a list of names and the images of CORAL_INPUT meet.

    Attributes:
        setting: The setting that gives the list, with its value, for messages.
        listing: The images.
        file_names: File name of each name that is an image's, in the order of the list.
        unknown: Names that are not in CORAL_INPUT, in the order of the list.
        cause: A sentence on why the unknown names may differ; empty if there is none.
        ignores_folders: Whether the names match only without folders at the beginning of all names, or of all files.
    """

    setting: str
    listing: Listing
    file_names: dict[str, str]
    unknown: list[str]
    cause: str
    ignores_folders: bool = False

    @cached_property
    def without(self) -> list[str]:
        """File names of the images that the list does not name, sorted bytewise."""
        matched = pa.array(set(self.file_names.values()), pa.large_string())
        keys = self.listing.table["key"]
        names: list[str] = keys.filter(pc.invert(pc.is_in(keys, value_set=matched))).to_pylist()
        return names

    @property
    def counts(self) -> dict[str, int]:
        """Numbers for run.json: images that the list names, names without an image, images without a name."""
        num_without = len(self.without)
        return {"matched": len(self.listing) - num_without, "unknown": len(self.unknown), "without": num_without}

    def require_any(self) -> None:
        """Refuses a list of which no name is an image's.

        Raises:
            SettingsError: If there are names, and none of them is in CORAL_INPUT.
        """
        if self.file_names or not self.unknown:
            return
        files = [entry.key for entry in self.listing.sample(_NUM_EXAMPLES)]
        raise SettingsError(
            f"{self.setting} names {quantify(len(self.unknown), 'image')}, and none of them is among the "
            f"{len(self.listing)} of CORAL_INPUT. It names {_show(self.unknown)}; CORAL_INPUT holds {_show(files)}. "
            f"{self.cause + ' ' if self.cause else ''}"
            "Names are relative to CORAL_INPUT: correct them, or set CORAL_INPUT to the folder that they start from."
        )

    def require_distinct(self) -> None:
        """Refuses a list that names an image twice, in two spellings.

        Raises:
            SettingsError: If two names are those of one image.
        """
        name_of: dict[str, str] = {}
        for name, file_name in self.file_names.items():
            if (other := name_of.setdefault(file_name, name)) != name:
                raise SettingsError(
                    f"{self.setting} names the image {shorten(file_name)} twice, as {shorten(other)} and as "
                    f"{shorten(name)}. Give each image once."
                )

    def describe_respelled(self) -> str | None:
        """A sentence on the names that are spelled differently from the files; None if there are none."""
        respelled = [(name, file_name) for name, file_name in self.file_names.items() if name != file_name]
        if not respelled:
            return None
        name, file_name = respelled[0]
        doubt = ". If these are other images, correct the names" if self.ignores_folders else ""
        names = quantify(
            len(respelled),
            "name is spelled differently from the files, and is matched",
            "names are spelled differently from the files, and are matched",
        )
        return f"{self.setting}: {names}: {shorten(name)} is {shorten(file_name)}{doubt}."

    def describe_unknown(self, num_elsewhere: int = 0) -> str | None:
        """Sentences on the names that are not in CORAL_INPUT; None if all are.

        Args:
            num_elsewhere: Number of these names that are those of images elsewhere.
        """
        if not self.unknown:
            return None
        total = len(self.unknown) + len(self.file_names)
        sentence = f"{self.setting}: {len(self.unknown)} of {total} names are not in CORAL_INPUT"
        if num_elsewhere:
            return f"{sentence}. Earlier runs or CORAL_EMBEDDING know {num_elsewhere} of them; all others are left out."
        sentence += f" and are left out: {_show(self.unknown)}."
        return f"{sentence} {self.cause}".rstrip()

    def describe_without(self, noun: str) -> str | None:
        """A sentence on the images that the list does not name; None if it names all.

        Args:
            noun: What such an image has not, such as "prediction".
        """
        if not self.without:
            return None
        return (
            f"{len(self.without)} of {len(self.listing)} images of CORAL_INPUT have no {noun} in {self.setting} and "
            f"are never picked: {_show(self.without)}. failures.jsonl lists them."
        )


def compare(setting: str, names: Iterable[str], listing: Listing, input_uri: str) -> Match:
    """Compares a list of names with the images of the input.

    Args:
        setting: The setting that gives the list, with its value, for messages.
        names: The names.
        listing: The images.
        input_uri: CORAL_INPUT; absolute names below it are recognised.
    """
    unique = list(dict.fromkeys(names))
    valid = [name for name in unique if is_text(name)]
    missing = set(listing.find_missing(valid))
    matched = {name: name for name in valid if name not in missing}
    ignores_folders = False
    if missing:
        images = _Images(listing, _find_root(input_uri))
        simple_of = {name: images.simplify(name) for name in valid if name in missing}
        matched |= _look_up(images, simple_of)
        if not matched:
            matched = _ignore_folders(images, simple_of)
            ignores_folders = bool(matched)
    unknown = [name for name in unique if name not in matched]
    cause = find_cause([name for name in unknown if is_text(name)], listing)
    in_order = {name: matched[name] for name in unique if name in matched}
    return Match(setting, listing, in_order, unknown, cause, ignores_folders)


class _Images:
    """Finds images by the simplest spelling of their names.

    Args:
        listing: The images.
        root: The folder that relative names start from, with a ``/`` at its end.
    """

    def __init__(self, listing: Listing, root: str) -> None:
        self._listing, self._root = listing, root
        keys = listing.table["key"]
        # Almost all names are in their simplest spelling, so Python looks only at the others.
        normalized = pc.utf8_normalize(keys, "NFC")
        is_odd = pc.or_(pc.not_equal(normalized, keys), pc.match_substring_regex(keys, _ODD_PATH))
        self._odd: dict[str, list[str]] = {}
        for key in keys.filter(is_odd).to_pylist():
            if (simple := self.simplify(key)) != key:
                self._odd.setdefault(simple, []).append(key)
        self._normalized = normalized

    def simplify(self, name: str) -> str:
        """The simplest spelling: NFC, with ``/``, without ``.`` and ``..``, and relative if it is below the root."""
        text = unicodedata.normalize("NFC", name).removeprefix("file://")
        if "://" not in text:
            text = posixpath.normpath(text.replace("\\", "/"))
        return text.removeprefix(self._root)

    def find(self, simple_names: Sequence[str]) -> list[str | None]:
        """The file of each name, in its simplest spelling; None if there is none, or more than one."""
        missing = set(self._listing.find_missing(list(simple_names)))
        files: list[str | None] = []
        for name in simple_names:
            candidates = self._odd.get(name, []) + ([] if name in missing else [name])
            files.append(candidates[0] if len(candidates) == 1 else None)
        return files

    def find_prefixes(self, simple_name: str) -> list[str]:
        """The folders that hold a file of this name, each with a ``/`` at its end."""
        ending = pc.ends_with(self._normalized, pattern=f"/{simple_name}")
        return [name.removesuffix(simple_name) for name in self._normalized.filter(ending).to_pylist()]


def _look_up(images: _Images, simple_of: dict[str, str]) -> dict[str, str]:
    files = images.find(list(simple_of.values()))
    return {name: file for name, file in zip(simple_of, files, strict=True) if file is not None}


def _ignore_folders(images: _Images, simple_of: dict[str, str]) -> dict[str, str]:
    """Matches all names by leaving out folders at their beginning, or by adding some; none if in doubt."""
    simple_names = list(simple_of.values())
    fits: list[list[str | None]] = []

    def try_names(changed: list[str]) -> None:
        # The first name alone rules out most folders.
        if images.find(changed[:1]) != [None]:
            files = images.find(changed)
            if None not in files and len(set(files)) == len(set(simple_names)):
                fits.append(files)

    common = posixpath.commonprefix([name.rpartition("/")[0] + "/" for name in simple_names])
    ends = [position + 1 for position, character in enumerate(common) if character == "/"]
    for end in ends:
        try_names([name[end:] for name in simple_names])
    prefixes = images.find_prefixes(simple_names[0])
    for prefix in prefixes if len(prefixes) <= _MAX_PREFIXES else ():
        try_names([prefix + name for name in simple_names])
    if len(fits) != 1:
        return {}
    return {name: file for name, file in zip(simple_of, fits[0], strict=True) if file is not None}


def _find_root(input_uri: str) -> str:
    root = normalize(input_uri)
    if input_uri.endswith((".txt", ".jsonl")):
        root = Location.parse(input_uri).split()[0].normalized
    return unicodedata.normalize("NFC", root).removesuffix("/") + "/"


def find_cause(unknown: list[str], listing: Listing) -> str:
    """Finds what most of the unknown names have in common: a sentence, or nothing.

    Args:
        unknown: Names that are not an image's.
        listing: The images.
    """
    if not unknown:
        return ""
    sample = unknown[:_MAX_SAMPLE]
    given = [unicodedata.normalize("NFC", name.replace("\\", "/")) for name in sample]
    keys = listing.table["key"]
    best: dict[str, str] = {}
    difference = ""
    for words, reduce in _CAUSES:
        reduced = reduce(pa.array(given, pa.large_string()))
        of_files = reduce(pc.utf8_normalize(keys, "NFC"))
        is_known = pc.is_in(of_files, value_set=reduced)
        file_of = dict(zip(of_files.filter(is_known).to_pylist(), keys.filter(is_known).to_pylist(), strict=True))
        explained = {
            name: file_of[text] for name, text in zip(sample, reduced.to_pylist(), strict=True) if text in file_of
        }
        if len(explained) > len(best):
            best, difference = explained, words
    if not best:
        return ""
    name, file_name = next(iter(best.items()))
    return (
        f"{len(best)} of {len(sample)} such names differ from those of files in {difference}: {shorten(name)} and "
        f"{shorten(file_name)}."
    )


def _strip_folder(names: Any) -> Any:
    return pc.replace_substring_regex(names, r"(?s)^.*/", "")


def _strip_extension(names: Any) -> Any:
    return pc.replace_substring_regex(names, r"\.[^./]*$", "")


def _show(names: Sequence[str]) -> str:
    shown = ", ".join(shorten(name) for name in names[:_NUM_EXAMPLES])
    return f"{shown} and {len(names) - _NUM_EXAMPLES} more" if len(names) > _NUM_EXAMPLES else shown
