"""The locations of a run's images."""

from dataclasses import dataclass

from job.errors import SettingsError
from studio import stores
from studio.results import Results

_LISTS = (".txt", ".jsonl")


@dataclass(frozen=True)
class Places:
    """The locations of a run's images.

    Attributes:
        uri: URI of the images' folder, or of the list of files.
        folder: URI of the folder that relative names start from.
        listed: Whether the run's input was a list of files, which may contain absolute paths and URIs.
    """

    uri: str
    folder: str
    listed: bool

    def __getitem__(self, name: str) -> str:
        """The absolute path or URI of an image."""
        return stores.normalize(name, self.folder) if self.listed else f"{self.folder}/{name}"

    def find_missing(self, names: list[str]) -> set[str]:
        """Finds the images that do not exist."""
        names_by_uri = {self[name]: name for name in names}
        missing = stores.find_missing("" if self.listed else self.folder, list(names_by_uri))
        return {names_by_uri[uri] for uri in missing}


def locate(results: Results, source: str) -> Places:
    """Locates the images.

    Args:
        results: Results of the run.
        source: The folder or list that the user gave in place of the run's input; empty to use the run's input.

    Raises:
        SettingsError: If the images are in a store that is not supported.
    """
    uri = stores.normalize(source or results.source)
    folder = stores.parent(uri) if uri.endswith(_LISTS) else uri
    return Places(uri, folder, listed=results.source.endswith(_LISTS))


def find_present(results: Results, places: Places) -> list[str]:
    """Finds the usable images that exist; returns their file names in the order of the results.

    Raises:
        SettingsError: If none of the images exists.
    """
    names = [image.file_name for image in results.images]
    missing = places.find_missing(names)
    if len(missing) == len(names):
        example = f", for example {places[names[0]]}" if names else ""
        raise SettingsError(
            f"None of the {len(names)} images of the run is in {places.uri}{example}: "
            "set INPUT to their current folder, as in INPUT=/mnt/frames."
        )
    return [name for name in names if name not in missing]
