"""Local paths, URIs of buckets, and URLs, which may contain a secret."""

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEMES = ("s3", "gs", "az")  # `job.storage.stores` has a record of each
# Label Studio's address of a local file; the path below its document root follows.
LABEL_STUDIO_FILES = "/data/local-files/?d="
_PREFIXES = ", ".join(f"{scheme}://" for scheme in SCHEMES[:-1]) + f" or {SCHEMES[-1]}://"
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A file or folder.

    Attributes:
        scheme: One of `SCHEMES`; empty for a local path.
        bucket: Name of the bucket, or of the container on Azure; empty for a local path.
        path: Key without a ``/`` at its end, or local path.
    """

    scheme: str
    bucket: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Parses a path or a URI.

        Raises:
            ValueError: If the scheme is not supported, if the bucket is missing, or if the URI is signed.
        """
        match = _SCHEME.match(uri)
        scheme = match[1].lower() if match else ""
        rest = uri[match.end() :] if match else uri
        if scheme in ("", "file"):
            return cls("", "", rest)
        if scheme not in SCHEMES:
            raise ValueError(f"must be a path, or begin with {_PREFIXES}")
        bucket, _, path = rest.partition("/")
        if not bucket or "@" in bucket:
            raise ValueError(f"must name a bucket, as in {scheme}://bucket/folder")
        if SIGNED.search(path):
            raise ValueError("must not be signed: credentials come from the environment")
        return cls(scheme, bucket, path.removesuffix("/"))

    @property
    def normalized(self) -> str:
        """The location as text, the same for all spellings of one place."""
        if not self.scheme:
            return os.path.abspath(self.path)  # noqa: PTH100  # without `..`, but with symbolic links as they are
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def split(self) -> tuple["Location", str]:
        """Returns the folder that contains a file, and the file's name in it."""
        folder, _, name = (self.path if self.scheme else self.normalized).rpartition("/")
        return Location(self.scheme, self.bucket, folder if self.scheme else folder or "/"), name


def normalize(uri: str) -> str:
    """Returns the same text for all spellings of one place."""
    return Location.parse(uri).normalized


def relativize(folder: str, uri: str) -> str | None:
    """Returns the path of a folder below another one, with a ``/`` at its end; None if it is not below it.

    Args:
        folder: Normalized URI of the upper folder.
        uri: Normalized URI of the lower folder.
    """
    folder = folder.removesuffix("/") + "/"
    return uri.removesuffix("/").removeprefix(folder) + "/" if uri.startswith(folder) else None


def is_protected(url: str) -> bool:
    """Returns whether nobody on the way can read or change what a URL's server sends: https, or this machine itself."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "http":
            return parts.scheme == "https"
        return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a host by name, or no URL
        return False


# Parameters of the signed URLs of large stores. They change from day to day, while the file stays the same.
_SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires|token"
    r"|s[vertpi]|sig|sk[a-z]{1,3}|spr",  # the last line: Azure's
    re.IGNORECASE,
)


# The query of a signed URL; the URI of a bucket must not have one.
SIGNED = re.compile(r"\?([^?]*&)?(x-(amz|goog)-signature|signature|sig)=.*", re.IGNORECASE)


# The comma before the next URL of a list.
_NEXT_URL = re.compile(r",(?=\s*[a-z][a-z0-9+.-]*://)", re.IGNORECASE)


def redact(text: str) -> str:
    """Removes credentials from a text that may be a URL or a URI.

    A URL loses its user, password, query and fragment, and the URI of a bucket its user, password and signature. Other
    texts stay unchanged.
    """
    urls = _NEXT_URL.split(text)
    if len(urls) > 1:
        return ",".join(map(redact, urls))
    if "://" not in text:
        return text
    if not text.lower().startswith("http"):  # in the name of an object, ? and # are ordinary characters
        text = text[: signed.start()] if (signed := SIGNED.search(text)) else text
        return re.sub(r"://[^/]*@", "://", text)
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def strip_signature(url: str) -> str:
    """Returns what identifies the file of a URL: the URL without credentials, with the rest of its query."""
    query = [(name, value) for name, value in parse_qsl(urlsplit(url).query) if not _SIGNATURE.fullmatch(name)]
    return redact(url) + ("?" + urlencode(query) if query else "")
