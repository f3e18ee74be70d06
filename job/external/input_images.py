"""The images in CORAL_INPUT, for predictions that name images by their stems, or that need the images' sizes."""

import functools
import threading
from posixpath import basename, splitext

from job import images, inputs
from job.errors import one_line
from job.settings import Settings
from job.shards import Shard
from job.storage import Source, open_source


class InputImages:
    """The images in CORAL_INPUT. They are listed when they are needed first.

    Args:
        settings: The settings, which name the input.
        stop: Ends waiting for a store when it is set.
    """

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings, self._stop = settings, stop

    @functools.cached_property
    def uri(self) -> str:
        """CORAL_INPUT, in the form that is shown."""
        return self._source.uri

    @functools.cached_property
    def file_names(self) -> list[str]:
        """File names of all images, sorted bytewise.

        Raises:
            SettingsError: If CORAL_INPUT does not exist or contains no images.
        """
        return [entry.key for entry in inputs.list_images(self._settings, self._source, Shard())]

    def find(self, name: str) -> list[str]:
        """Finds the images that a name may mean.

        Args:
            name: File name, or the stem of one; with or without its folder.

        Returns:
            File names. One with the whole name comes before those with that stem, and these before those in any folder.
        """
        return next((table[name] for table in self._tables if name in table), [])

    def read_size(self, file_name: str) -> tuple[int, int] | str:
        """Reads width and height of an image after its EXIF orientation; or gives the reason why this fails."""
        try:
            return images.read_oriented_size(self._source.read(file_name))
        except images.ImageError as error:
            return str(error)
        except OSError as error:
            return f"it cannot be read: {error.strerror or one_line(error)}"

    @functools.cached_property
    def _source(self) -> Source:
        return open_source(self._settings.input, self._stop)

    @functools.cached_property
    def _tables(self) -> list[dict[str, list[str]]]:
        tables: list[dict[str, list[str]]] = [{}, {}, {}, {}]
        for file_name in self.file_names:
            last = basename(file_name)
            forms = (file_name, splitext(file_name)[0], last, splitext(last)[0])
            for table, form in zip(tables, forms, strict=True):
                table.setdefault(form, []).append(file_name)
        return tables
