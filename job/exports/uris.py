"""The URI of each image of the input."""

from collections.abc import Callable

from job.uris import Location, normalize

_LISTS = (".txt", ".jsonl")


def make_uri_builder(input_uri: str) -> Callable[[str], str]:
    """Makes a function that converts the file name of an image to its URI or absolute path.

    Args:
        input_uri: CORAL_INPUT: a folder, or a list of files. In a list, the file names are paths and URIs already.
    """
    if input_uri.endswith(_LISTS):
        base, _ = Location.parse(input_uri).split()
        return lambda file_name: _resolve(base, file_name)
    folder = normalize(input_uri).removesuffix("/")
    return lambda file_name: f"{folder}/{file_name}"


def _resolve(base: Location, file_name: str) -> str:
    location = Location.parse(file_name)
    if location.scheme or location.path.startswith("/"):
        return location.normalized
    path = f"{base.path.removesuffix('/')}/{location.path}" if base.path else location.path
    return Location(base.scheme, base.bucket, path).normalized
