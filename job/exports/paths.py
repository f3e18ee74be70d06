"""Paths for files that belong to images: inside their folder, usable in every store, and all distinct."""

import re
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from itertools import accumulate

from job.names import is_one_line

_EXTENSION = re.compile(r"(?<=[^/])\.[A-Za-z0-9]{1,10}\Z")
_SCHEME = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*://")
# Below the limits of file systems (255) and S3 (1024), with room for parent folders and for names of temporary files.
_MAX_ELEMENT_BYTES, _MAX_PATH_BYTES = 200, 800


def assign_copies(file_names: Iterable[str]) -> dict[str, str]:
    """Assigns each image the path of its copy: its file name, or a digest of it if no file should have such a name."""

    def candidates(file_name: str) -> Iterator[str]:
        yield _relative(file_name)
        yield from (digest + find_extension(file_name) for digest in _digests(file_name))

    return _assign(file_names, candidates)


def assign_labels(file_names: Iterable[str], suffix: str, without: str | None = None) -> dict[str, str]:
    """Assigns each image the path of its labels: its file name with the extension replaced, or else the suffix added.

    Args:
        file_names: File names of images.
        suffix: Suffix that replaces the extension.
        without: Name of folders that are left out of the paths.
    """

    def candidates(file_name: str) -> Iterator[str]:
        if path := _relative(file_name, without):
            yield path.removesuffix(find_extension(path)) + suffix
            yield path + suffix
        yield from (digest + suffix for digest in _digests(file_name))

    return _assign(file_names, candidates)


def find_extension(file_name: str) -> str:
    """The extension of a file name with its dot; empty if the name has none, or none that looks like one."""
    match = _EXTENSION.search(file_name)
    return match[0] if match else ""


def is_below(path: str, folder: str) -> bool:
    """Whether a path is below a folder and is one that `assign_copies` can return."""
    return path.startswith(folder) and _is_usable(path)


def _assign(file_names: Iterable[str], candidates: Callable[[str], Iterator[str]]) -> dict[str, str]:
    """Assigns each name its first free candidate. The result does not depend on the order of the names."""
    files: set[str] = set()
    folders: set[str] = set()

    def is_free(path: str) -> bool:
        return path not in files and path not in folders and files.isdisjoint(_parents(path))

    result = {}
    for file_name in sorted(file_names, key=str.encode):
        path = next(candidate for candidate in candidates(file_name) if _is_usable(candidate) and is_free(candidate))
        files.add(path)
        folders.update(_parents(path))
        result[file_name] = path
    return result


def _relative(file_name: str, without: str | None = None) -> str:
    """Converts a file name, a whole path or a URI to a relative path that does not leave its folder."""
    elements = [element for element in _SCHEME.sub("", file_name).split("/") if element not in ("", ".", "..")]
    *folders, last = elements or [""]
    return "/".join([*(folder for folder in folders if folder != without), last])


def _digests(file_name: str) -> Iterator[str]:
    """Yields new digests without end, because another image may have a digest of this name as its own name."""
    while True:
        file_name = sha256(file_name.encode()).hexdigest()
        yield file_name


def _parents(path: str) -> list[str]:
    *folders, _ = path.split("/")
    return list(accumulate(folders, lambda parent, folder: f"{parent}/{folder}"))


def _is_usable(path: str) -> bool:
    """Whether a path can be a file in every store, and Windows does not turn it into another path."""
    elements = path.split("/")
    return (
        len(path.encode()) <= _MAX_PATH_BYTES
        and is_one_line(path)
        and "\\" not in path
        and all(element and element == element.strip().rstrip(".") for element in elements)
        and all(len(element.encode()) <= _MAX_ELEMENT_BYTES for element in elements)
    )
