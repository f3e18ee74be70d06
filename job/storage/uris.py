"""Where things are: local paths, and URIs of buckets."""

import os
import re
from dataclasses import dataclass

from job.urls import SIGNED

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
    def of(cls, uri: str) -> "Location":
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
    def normal(self) -> str:
        """The same text for the same place."""
        if not self.scheme:
            return os.path.abspath(self.path)  # noqa: PTH100  # without `..`, and without following links
        return f"{self.scheme}://{self.bucket}" + (f"/{self.path}" if self.path else "")

    def split(self) -> tuple["Location", str]:
        """The folder that a file lies in, and its name."""
        folder, _, name = (self.path if self.scheme else self.normal).rpartition("/")
        return Location(self.scheme, self.bucket, folder if self.scheme else folder or "/"), name


def normal(uri: str) -> str:
    """The same text for the same place."""
    return Location.of(uri).normal


def below(folder: str, other: str) -> str | None:
    """The path of one normal URI below another, with a ``/`` at its end; None if it lies elsewhere."""
    folder = folder.removesuffix("/") + "/"
    return other.removesuffix("/").removeprefix(folder) + "/" if other.startswith(folder) else None
