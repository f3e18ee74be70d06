"""Parsers of setting values: each returns the value of a text, or raises ValueError that says what is accepted."""

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from job.names import shorten_text
from job.secret import Secret
from job.settings.choices import TIMM
from job.uris import LABEL_STUDIO_FILES, Location, is_protected

T = TypeVar("T")

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

# Reads a whole file from a path or a bucket.
ReadFile = Callable[[str], bytes]


def hint(text: str, allowed: Sequence[str]) -> str:
    """The words for a probable typing error, or nothing."""
    by_lower_case = {word.lower(): word for word in reversed(allowed)}
    close = difflib.get_close_matches(text.lower(), by_lower_case, n=1)
    return f" (did you mean {shorten_text(by_lower_case[close[0]])}?)" if close else ""


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """A whole number in a range, both ends included."""

    def parse(text: str) -> int:
        expected = f"a whole number of at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        if not re.fullmatch(r"[+-]?\d+", text):
            raise ValueError(f"must be {expected}")
        value = int(text)
        if value < minimum or (maximum is not None and value > maximum):
            raise ValueError(f"must be {expected}")
        return value

    return parse


def number(minimum: float, maximum: float = float("inf")) -> Callable[[str], float]:
    """A finite number in a range, both ends included."""

    def parse(text: str) -> float:
        expected = f"a number of at least {minimum:g}"
        if maximum != float("inf"):
            expected = f"a number from {minimum:g} to {maximum:g}"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"must be {expected}") from None
        if not minimum <= value <= maximum or value == float("inf"):  # NaN fails the first comparison
            raise ValueError(f"must be {expected}")
        return value

    return parse


def one_of(*allowed: str) -> Callable[[str], str]:
    """One of the given words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}{hint(text, allowed)}")
        return text

    return parse


def some_of(*allowed: str) -> Callable[[str], tuple[str, ...]]:
    """Some of the given words with commas between them, ``all`` or ``none``; in the order of the allowed words."""

    def parse(text: str) -> tuple[str, ...]:
        if text in ("all", "none"):
            return allowed if text == "all" else ()
        given = {word.strip() for word in text.split(",")}
        if not given <= set(allowed):
            raise ValueError(f"must be a comma-separated list of {', '.join(allowed)}; or all, or none")
        return tuple(word for word in allowed if word in given)

    return parse


def auto_or(parse: Callable[[str], T]) -> Callable[[str], T | None]:
    """A value that another parser accepts, or ``auto``, which becomes None."""

    def parse_auto(text: str) -> T | None:
        try:
            return None if text == "auto" else parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return parse_auto


def device(text: str) -> str:
    """A torch device, or ``auto``."""
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9]\d?))?", text):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return text


def embedding(text: str) -> str:
    """``detector``, ``simclr``, ``timm:`` and the name of a model, or the URI of a file of embeddings."""
    if text in ("detector", "simclr"):
        return text
    if text.startswith(TIMM):
        if not re.fullmatch(r"[\w.-]+", text.removeprefix(TIMM), re.ASCII):
            raise ValueError("must name a model of timm, such as timm:resnet50 or timm:vit_small_patch14_dinov2")
        return text
    if not text.endswith((".parquet", ".csv", ".npy", ".npz")):
        raise ValueError("must be detector, simclr, timm:<model>, or the URI of a .parquet, .csv, .npz or .npy file")
    return uri(text)


def metadata(text: str) -> str:
    """The URI of a file of metadata."""
    if not text.endswith((".csv", ".parquet", ".jsonl")):
        raise ValueError("must be the URI of a .csv, .parquet or .jsonl file")
    return uri(text)


def boolean(text: str) -> bool:
    """Yes or no."""
    if text.lower() not in (*_YES, *_NO):
        raise ValueError("must be 1 or 0")
    return text.lower() in _YES


def uri(text: str) -> str:
    """A local path, or the URI of an object or folder in a bucket; ``file://`` is removed."""
    location = Location.parse(text)
    return text if location.scheme else location.path


def uris(text: str) -> tuple[str, ...]:
    """Values that `uri` accepts, with commas between them."""
    parsed = tuple(uri(item.strip()) for item in text.split(",") if item.strip())
    if not parsed:
        raise ValueError("must be a path, s3://, gs:// or az://, or several with commas between them")
    return parsed


def uri_or_url(text: str) -> str:
    """A value that `uri` accepts, or an http(s) URL."""
    return text if re.match(r"https?://", text) else uri(text)


def checkpoint(text: str) -> str:
    """A value that `uri` accepts, or an https URL; http only of this machine."""
    if re.match(r"http://", text) and not is_protected(text):
        raise ValueError("is not encrypted: use an https URL, or download the file and give its path")
    return uri_or_url(text)


def sha256(text: str) -> str:
    """A SHA-256 in hexadecimal, as `sha256sum` prints it."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ValueError("must be 64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


def images_address(text: str) -> str:
    """The address of a folder of images for those who read the exports: a path, a URI, or an http(s) URL."""
    if re.match(r"https?://", text) and LABEL_STUDIO_FILES not in text and re.search(r"[?#@]", text):
        raise ValueError("must be the address of a folder, without ?, # and @")
    return uri_or_url(text)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the text is too long for a file name
        return False


def class_names(text: str, read_file: ReadFile) -> tuple[str, ...]:
    """Class names: a comma-separated list, or a file (a path or a URI) with one name per line."""
    location = Location.parse(text)
    try:
        in_file = location.scheme or _is_file(Path(location.path))
        lines = read_file(text).decode().splitlines() if in_file else text.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read ({error}): give a UTF-8 file with one class name per line") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(set(names)) != len(names):
        raise ValueError("must be distinct class names, comma-separated, or a file with one name per line")
    return tuple(names)


def class_renames(text: str) -> dict[str, str]:
    """New names of classes: ``class=name,class=name``."""
    pairs = [[name.strip() for name in item.partition("=")[::2]] for item in text.split(",")]
    renames = dict(pairs)
    if len(renames) < len(pairs) or not all(old and new for old, new in pairs):
        raise ValueError("must be class=name,class=name, with each class once")
    return renames


def secret_file(text: str) -> Secret:
    """A local file that holds a secret, as Kubernetes mounts them."""
    try:
        content = Path(text).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise ValueError(f"cannot be read: {reason}") from None
    if not content:
        raise ValueError("is empty")
    return Secret(content)


def server(text: str) -> str:
    """The address of a web service."""
    if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError("must be an address such as https://api.lightly.ai")
    if not is_protected(text):
        raise ValueError("is not encrypted, and the token would be sent to it: use https")
    return text.rstrip("/")


def dataset(text: str) -> str:
    """Name or id of a Lightly dataset."""
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9 _-]{2,}", text):
        raise ValueError(
            "must be an id, or a name of at least three letters, digits, spaces, - and _, beginning with a letter or "
            "digit"
        )
    return text


def role_arn(text: str) -> str:
    """The ARN of an AWS role."""
    if not re.fullmatch(r"arn:aws:iam::\d{12}:role/.+", text):
        raise ValueError("must look like arn:aws:iam::123456789012:role/name")
    return text


def external_id(text: str) -> Secret:
    """The external id of an AWS role, in the characters that Lightly accepts."""
    if not re.fullmatch(r"[a-zA-Z0-9_+=,.@:/-]{10,}", text):
        raise ValueError("must be at least 10 letters, digits and _+=,.@:/-")
    return Secret(text)
