"""The images in CORAL_INPUT, for predictions that name images by their stems, or that need the images' sizes."""

import functools
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from posixpath import basename, splitext

from job import images
from job.errors import one_line
from job.inputs import headers
from job.inputs.headers import Size
from job.inputs.match import compare, find_cause
from job.names import is_text
from job.settings import Settings
from job.storage import Entry, Listing, open_source
from job.storage.filelist import FileList
from job.storage.frames import VideoSource


class InputImages:
    """The images in CORAL_INPUT.

    Args:
        settings: The settings, which name the input.
        listing: The images.
        stop: Ends waiting for a store when it is set.
        owns: Returns whether this process will read an image, if images are read to embed them; else None.
    """

    def __init__(
        self,
        settings: Settings,
        listing: Listing,
        stop: threading.Event,
        owns: Callable[[str], bool] | None = None,
    ) -> None:
        self._settings, self._listing, self._stop, self._owns = settings, listing, stop, owns

    @functools.cached_property
    def file_names(self) -> list[str]:
        """File names of all images, sorted bytewise."""
        return [entry.key for entry in self._listing]

    def find(self, name: str) -> list[str]:
        """Finds the images that a name may mean.

        Args:
            name: File name, or the stem of one; with or without its folder.

        Returns:
            File names. One with the whole name comes before those with that stem, and these before those in any folder.
        """
        return next((table[name] for table in self._tables if name in table), [])

    def match(self, setting: str, names: Iterable[str], warnings: list[str]) -> tuple[dict[str, list[str]], str]:
        """Finds the images that each name of a list may mean; see `find`, and `job.inputs.match` for other spellings.

        Args:
            setting: The setting that gives the list, with its value, for messages.
            names: File names, or stems of them.
            warnings: Gets a sentence if folders at the beginning of the names are ignored.

        Returns:
            The file names that each name may mean; and a sentence on why those that mean none may differ, or nothing.

        Raises:
            SettingsError: If there are names, and none of them is an image's.
        """
        names = list(dict.fromkeys(names))
        meant = {name: self.find(name) for name in names}
        if all(meant.values()):
            return meant, ""
        stems = Listing.from_entries(Entry(stem, "", 0) for stem in self._tables[1])
        matches = [compare(setting, names, listing, self._settings.input) for listing in (self._listing, stems)]
        for match in matches:
            found = [name for name in names if not meant[name] and name in match.file_names]
            meant |= {name: self.find(match.file_names[name]) for name in found}
            if found and match.ignores_folders and (respelled := match.describe_respelled()):
                warnings.append(respelled)
        unknown = [name for name in names if not meant[name] and is_text(name)]
        are_whole = any(splitext(name)[1].lower() in images.EXTENSIONS for name in unknown)
        cause = find_cause(unknown, self._listing if are_whole else stems)
        if not any(meant.values()):
            replace(matches[0], cause=cause).require_any()
        return meant, cause

    def read_size(self, file_name: str) -> tuple[int, int] | str:
        """Reads width and height of an image after its EXIF orientation; or gives the reason why this fails."""
        if self._owns and not self._owns(file_name):
            return "another shard reads it"
        try:
            size = headers.read_size(self._source, file_name)
            return size.width, size.height
        except images.ImageError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be read: {error.strerror or one_line(error)}"

    def read_sizes(self, file_names: Iterable[str]) -> tuple[dict[str, Size], list[str]]:
        """Reads the sizes of some images as `job.inputs.headers.read_sizes` does; of none if the input is a list."""
        if isinstance(self._source.files, FileList):  # its files need not exist
            return {}, []
        return headers.read_sizes(self._source, ((name, None) for name in file_names))

    def describe_size(self, size: tuple[int, int] | str | None) -> str:
        """Describes a size for a digest; empty if rows have the ETags of their files, which say as much."""
        return "" if self._owns else str(size)

    @functools.cached_property
    def _source(self) -> VideoSource:
        return open_source(self._settings.input, self._stop, self._settings.frames)

    @functools.cached_property
    def _tables(self) -> list[dict[str, list[str]]]:
        tables: list[dict[str, list[str]]] = [{}, {}, {}, {}]
        for file_name in self.file_names:
            last = basename(file_name)
            forms = (file_name, splitext(file_name)[0], last, splitext(last)[0])
            for table, form in zip(tables, forms, strict=True):
                table.setdefault(form, []).append(file_name)
        return tables
