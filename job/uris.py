"""Where things are: local paths, URIs of buckets, and URLs, which may hold a secret."""

import os
import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEMES = ("s3", "gs", "az")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A file or folder.

    Attributes:
        scheme: One of `SCHEMES`; empty for a local path.
        bucket: Name of the bucket, or of Azure's container; empty for a local path.
        path: Key without a ``/`` at its end, or local path.
    """

    scheme: str
    bucket: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> "Location":
        """Takes a URI apart.

        Raises:
            ValueError: It is of no known kind, or names no bucket.
        """
        found = _SCHEME.match(uri)
        scheme = found[1].lower() if found else ""
        rest = uri[found.end() :] if found else uri
        if scheme in ("", "file"):
            return cls("", "", rest)
        if scheme not in SCHEMES:
            raise ValueError("must be a path, or begin with s3://, gs:// or az://")
        bucket, _, path = rest.partition("/")
        if not bucket or "@" in bucket:
            raise ValueError(f"must name a bucket, as in {scheme}://bucket/folder")
        if SIGNED.search(path):
            raise ValueError("must not be signed: credentials come from the environment")
        return cls(scheme, bucket, path.removesuffix("/"))

    @property
    def normalized(self) -> str:
        """The same text for the same place."""
        if not self.scheme:
            return os.path.abspath(self.path)  # noqa: PTH100  # without `..`, and without following links
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def split(self) -> tuple["Location", str]:
        """The folder that a file lies in, and its name."""
        folder, _, name = (self.path if self.scheme else self.normalized).rpartition("/")
        return Location(self.scheme, self.bucket, folder if self.scheme else folder or "/"), name


def normalize(uri: str) -> str:
    """The same text for the same place."""
    return Location.parse(uri).normalized


def relativize(folder: str, other: str) -> str | None:
    """The path of one normal URI below another, with a ``/`` at its end; None if it lies elsewhere."""
    folder = folder.removesuffix("/") + "/"
    return other.removesuffix("/").removeprefix(folder) + "/" if other.startswith(folder) else None


# Parameters of signed URLs of the large stores; they change from day to day while the file stays the same.
_SIGNATURE = re.compile(
    r"x-(amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|policy|signature|expires|token"
    r"|s[vertpi]|sig|sk[a-z]{1,3}|spr",  # the last line: Azure's
    re.IGNORECASE,
)


# The query of a signed URL; a URI of a bucket has none.
SIGNED = re.compile(r"\?([^?]*&)?(x-(amz|goog)-signature|signature|sig)=.*", re.IGNORECASE)


def redact(text: str) -> str:
    """A URL without user, password, query and fragment; a URI of a bucket without the first two; others as they are."""
    if "://" not in text:
        return text
    if not text.lower().startswith("http"):  # in the name of an object, ? and # are letters as any other
        text = text[: signed.start()] if (signed := SIGNED.search(text)) else text
        return re.sub(r"://[^/]*@", "://", text)
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def strip_signature(url: str) -> str:
    """What names the file behind a URL: without credentials, but with a query that is no signature."""
    query = [(name, value) for name, value in parse_qsl(urlsplit(url).query) if not _SIGNATURE.fullmatch(name)]
    return redact(url) + ("?" + urlencode(query) if query else "")
