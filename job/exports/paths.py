"""Names for files that belong to images: inside their folder, usable in every store, and no two alike."""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import accumulate

from job.names import is_one_line

_EXTENSION = re.compile(r"(?<=[^/])\.[A-Za-z0-9]{1,10}\Z")
_SCHEME = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://")
# Below the limits of file systems (255) and of S3 (1024), with room for the folders before and for temporary names.
_LONGEST_ELEMENT, _LONGEST_PATH = 200, 800


def of_files(names: Iterable[str]) -> dict[str, str]:
    """Where a copy of each image goes: its file name, or a digest of that where no file should have such a name."""

    def candidates(name: str) -> Iterator[str]:
        yield _relative(name)
        yield from (digest + extension(name) for digest in _digests(name))

    return _assign(names, candidates)


def of_labels(names: Iterable[str], suffix: str, without: str | None = None) -> dict[str, str]:
    """Where the labels of each image go: its file name with its extension replaced, or else with all of it.

    Args:
        names: File names of images.
        suffix: What replaces the extension.
        without: Folders of this name are left out of the paths.
    """

    def candidates(name: str) -> Iterator[str]:
        if path := _relative(name, without):
            yield path.removesuffix(extension(path)) + suffix
            yield path + suffix
        yield from (digest + suffix for digest in _digests(name))

    return _assign(names, candidates)


def extension(name: str) -> str:
    """The extension of a file name with its dot; empty where it has none, or none that looks like one."""
    found = _EXTENSION.search(name)
    return found[0] if found else ""


def is_below(path: str, folder: str) -> bool:
    """Whether a path is one that `of_files` may give, below a folder."""
    return path.startswith(folder) and _usable(path)


def _assign(names: Iterable[str], candidates: Callable[[str], Iterator[str]]) -> dict[str, str]:
    """Gives each name its first candidate that is free; the same for the same names, in whatever order."""
    files: set[str] = set()
    folders: set[str] = set()

    def is_free(path: str) -> bool:
        return path not in files and path not in folders and files.isdisjoint(_folders(path))

    result = {}
    for name in sorted(names, key=str.encode):
        path = next(each for each in candidates(name) if _usable(each) and is_free(each))
        files.add(path)
        folders.update(_folders(path))
        result[name] = path
    return result


def _relative(name: str, without: str | None = None) -> str:
    """A file name, or a whole path or URI, as a path that starts from a folder and stays in it."""
    *folders, last = [each for each in _SCHEME.sub("", name).split("/") if each not in ("", ".", "..")] or [""]
    return "/".join([*(each for each in folders if each != without), last])


def _digests(name: str) -> Iterator[str]:
    """Ever other ones: another image may have the digest of this one's name for its own name."""
    while True:
        name = sha256(name.encode()).hexdigest()
        yield name


def _folders(path: str) -> list[str]:
    *folders, _ = path.split("/")
    return list(accumulate(folders, lambda above, each: f"{above}/{each}"))


def _usable(path: str) -> bool:
    """Whether a path can be a file in every store, and on Windows does not become another one."""
    elements = path.split("/")
    return (
        len(path.encode()) <= _LONGEST_PATH
        and is_one_line(path)
        and "\\" not in path
        and all(each and each == each.strip().rstrip(".") for each in elements)
        and all(len(each.encode()) <= _LONGEST_ELEMENT for each in elements)
    )
