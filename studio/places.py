"""Where the images of a run are."""

from dataclasses import dataclass

from job.errors import SettingsError
from studio import stores
from studio.results import Results

_LISTS = (".txt", ".jsonl")


@dataclass(frozen=True)
class Places:
    """Where the images of a run are.

    Attributes:
        uri: Of their folder, or of the list that names them.
        folder: That relative names start from.
        listed: Whether the run's input was a list, whose names may be whole paths and URIs.
    """

    uri: str
    folder: str
    listed: bool

    def __getitem__(self, name: str) -> str:
        """The absolute path or URI of an image."""
        return stores.normal(name, self.folder) if self.listed else f"{self.folder}/{name}"

    def missing(self, names: list[str]) -> set[str]:
        """Which images are not there."""
        uris = {self[name]: name for name in names}
        return {uris[each] for each in stores.missing("" if self.listed else self.folder, list(uris))}


def of(results: Results, source: str) -> Places:
    """Finds out where the images are.

    Args:
        results: Of the run.
        source: The folder, or list, that the user named instead of the run's input; empty for that one.

    Raises:
        SettingsError: They are in a kind of place that is not supported.
    """
    uri = stores.normal(source or results.source)
    folder = stores.parent(uri) if uri.endswith(_LISTS) else uri
    return Places(uri, folder, listed=results.source.endswith(_LISTS))


def present(results: Results, places: Places) -> list[str]:
    """The names of the usable images that are there, in the order of the results.

    Raises:
        SettingsError: None of them is.
    """
    names = [each.name for each in results.images]
    lost = places.missing(names)
    if len(lost) == len(names):
        example = f", for example {places[names[0]]}" if names else ""
        raise SettingsError(
            f"None of the {len(names)} images of the run is in {places.uri}{example}: "
            "name the folder that they are in now, as in INPUT=/mnt/frames."
        )
    return [name for name in names if name not in lost]
