"""Where each image is."""

from collections.abc import Callable

from job.uris import Location, normalize

_LISTS = (".txt", ".jsonl")


def of_input(uri: str) -> Callable[[str], str]:
    """From the key of an image to its URI, or its absolute path.

    Args:
        uri: CORAL_INPUT: a folder, or a list of files, whose keys are paths and URIs already.
    """
    if uri.endswith(_LISTS):
        base, _ = Location.parse(uri).split()
        return lambda key: _of_list(base, key)
    folder = normalize(uri).removesuffix("/")
    return lambda key: f"{folder}/{key}"


def _of_list(base: Location, key: str) -> str:
    location = Location.parse(key)
    if location.scheme or location.path.startswith("/"):
        return location.normalized
    path = f"{base.path.removesuffix('/')}/{location.path}" if base.path else location.path
    return Location(base.scheme, base.bucket, path).normalized
