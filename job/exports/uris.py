"""Where each image of the input is, for those who read the exports."""

from collections.abc import Callable
from urllib.parse import quote

from job.uris import LABEL_STUDIO_FILES, Location, normalize

_LISTS = (".txt", ".jsonl")

UriBuilder = Callable[[str], str]


def make_uri_builder(input_uri: str, images_at: str | None = None) -> UriBuilder:
    """Makes a function that converts the file name of an image to its URI, URL or path.

    Args:
        input_uri: CORAL_INPUT: a folder, or a list of files. In a list, the file names are paths and URIs already.
        images_at: CORAL_IMAGES_AT: takes the place of the folder, or of the folder that contains the list. An address
            in Label Studio is ignored, because nothing else can open it.
    """
    return _make_builder(input_uri, None if images_at and LABEL_STUDIO_FILES in images_at else images_at)


def make_task_uri_builder(input_uri: str, images_at: str | None = None) -> UriBuilder:
    """Makes a function like `make_uri_builder` for Label Studio, which also accepts an address in Label Studio."""
    uri_of = _make_builder(input_uri, images_at)
    return lambda file_name: to_task_uri(uri_of(file_name))


def to_task_uri(uri: str) -> str:
    """Converts a URI, URL or path to what Label Studio opens: it serves local files below its document root only."""
    is_path = "://" not in uri and LABEL_STUDIO_FILES not in uri
    return LABEL_STUDIO_FILES + quote(uri.lstrip("/")) if is_path else uri


def _make_builder(input_uri: str, images_at: str | None) -> UriBuilder:
    if input_uri.endswith(_LISTS):
        base, _ = Location.parse(input_uri).split()
        prefix = base.normalized.removesuffix("/") + "/"

        def build(file_name: str) -> str:
            uri = _resolve(base, file_name)
            return _join(images_at, uri.removeprefix(prefix)) if images_at and uri.startswith(prefix) else uri

        return build
    folder = images_at or normalize(input_uri)
    return lambda file_name: _join(folder, file_name)


def _join(folder: str, path: str) -> str:
    if folder.startswith(("http://", "https://")) or LABEL_STUDIO_FILES in folder:
        path = quote(path)
    if folder.endswith(LABEL_STUDIO_FILES):  # paths below its document root
        return folder + path
    return f"{folder.removesuffix('/')}/{path}"


def _resolve(base: Location, file_name: str) -> str:
    location = Location.parse(file_name)
    if location.scheme or location.path.startswith("/"):
        return location.normalized
    path = f"{base.path.removesuffix('/')}/{location.path}" if base.path else location.path
    return Location(base.scheme, base.bucket, path).normalized
