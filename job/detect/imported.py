"""Detections that were made elsewhere, whose images are read to embed them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from job import parts
from job.shards import Shard
from job.storage import Entry, Listing, Storage


@dataclass(frozen=True)
class Imported:
    """Imported detections on the images of a shard.

    Attributes:
        rows: A row for each image, by file name, with the ETag that its part gets. Rows that are not ``ok`` stay as
            they are, and their images are not read.
        provenance: What the detections were made with, without the embedder.
    """

    rows: Mapping[str, parts.Row]
    provenance: parts.Provenance

    @property
    def listing(self) -> Listing:
        """The images of the shard."""
        return Listing.from_entries(Entry(row.file_name, row.etag, row.byte_size) for row in self.rows.values())

    def complete(self, row: parts.Row) -> parts.Row:
        """Adds what was computed from an image to its imported row.

        Args:
            row: Row of the image, without detections.

        Returns:
            The imported row with the image's size (if it has none), thumbnail and feature; an unusable row as it is.
        """
        if row.status != "ok":
            return row
        imported = self.rows[row.file_name]
        sized = imported if imported.width and imported.height else row
        return replace(imported, width=sized.width, height=sized.height, thumbnail=row.thumbnail, feature=row.feature)

    def write_unusable(
        self, output: Storage, provenance: parts.Provenance, done: set[tuple[str, str]], shard: Shard | None = None
    ) -> set[tuple[str, str]]:
        """Writes the rows whose images are not read, unless they are in the output.

        Args:
            output: Store that the parts are written to.
            provenance: What the parts are made with.
            done: Key and ETag of the images that have rows.
            shard: The shard that the images are of; None if there is one only.

        Returns:
            Key and ETag of these rows.
        """
        unusable = [row for row in self.rows.values() if row.status != "ok"]
        missing = [row for row in unusable if (row.file_name, row.etag) not in done]
        size = parts.choose_size(len(missing))
        for start in range(0, len(missing), size):
            parts.write(output, missing[start : start + size], provenance, shard)
        return {(row.file_name, row.etag) for row in unusable}
