"""MP4 and QuickTime files without their pictures: the index alone says which frames there are, and when."""

import io
from collections.abc import Iterator

from job.video.ranged import RangedFile

_HEADER_BYTES, _LONG_HEADER_BYTES = 8, 16
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_TO_THE_END, _LONG = 0, 1  # sizes that mean something else
_OF_BOXES = frozenset({b"trak", b"mdia", b"minf", b"stbl", b"traf"})  # boxes whose content are boxes
# Where boxes say how many frames there are, as bytes after the beginning of their content.
_COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
_MAX_DEPTH = 8  # of boxes within `moov` and `moof`; FFmpeg goes no deeper, and nobody else needs more than four


def has_index(file: io.IOBase) -> bool:
    """Whether a file is MP4 or QuickTime, by its beginning."""
    file.seek(0)
    return file.read(_HEADER_BYTES)[4:] in _FIRST_BOXES


class IndexOnly(RangedFile):
    """A file whose pictures are zeros, which are not read.

    Pictures are the content of the boxes `mdat` (ISO/IEC 14496-12, sections 4.2 and 8.1.1).

    Args:
        file: The file, with `read` and `seek`.

    Attributes:
        most_frames: The largest number of frames that a table of the index claims to have. A table can be as small as
            20 bytes, whatever it claims.
    """

    def __init__(self, file: io.IOBase) -> None:
        super().__init__(file.seek(0, io.SEEK_END))
        self._file = file
        self.most_frames = 0
        self._pictures = list(self._find_pictures())

    def read_from(self, start: int, length: int) -> bytes:
        """Returns bytes up to where pictures begin or end."""
        first, last = next((pair for pair in self._pictures if start < pair[1]), (self._size, self._size))
        if start >= first:
            return bytes(min(length, last - start))
        return self._read_at(start, min(length, first - start))

    def _read_at(self, start: int, length: int) -> bytes:
        """Returns bytes, fewer only at the end of the file."""
        self._file.seek(start)
        data = b""
        while len(data) < length and (more := self._file.read(length - len(data))):
            data += more
        return data

    def _find_pictures(self) -> Iterator[tuple[int, int]]:
        """Yields where the pictures begin and end."""
        for kind, start, end in self._boxes(0, self._size):
            if kind == b"mdat":
                yield start, end
            elif kind in (b"moov", b"moof"):
                self.most_frames = max(self.most_frames, self._count_frames(start, end, 0))

    def _count_frames(self, start: int, end: int, depth: int) -> int:
        """Returns the largest number of frames in the tables of the boxes of a range; 0 if they are those of sound.

        Sound may have a table of as many entries as it has samples: it is not read.
        """
        most, is_sound = 0, False
        for kind, content, content_end in self._boxes(start, end):
            if kind == b"hdlr":
                is_sound = self._read_at(content + 8, 4) == b"soun"
            elif kind in _OF_BOXES and depth < _MAX_DEPTH:
                most = max(most, self._count_frames(content, content_end, depth + 1))
            elif kind in _COUNTS:
                most = max(most, int.from_bytes(self._read_at(content + _COUNTS[kind], 4), "big"))
        return 0 if is_sound else most

    def _boxes(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yields the kind of each box of a range, and where its content begins and ends."""
        while start + _HEADER_BYTES <= end:
            header = self._read_at(start, _LONG_HEADER_BYTES)
            length, content = int.from_bytes(header[:4], "big"), start + _HEADER_BYTES
            if length == _LONG:
                length, content = int.from_bytes(header[8:], "big"), start + _LONG_HEADER_BYTES
            after = end if length == _TO_THE_END else start + length
            if after < content:  # no box; whatever follows is read as it is
                return
            yield header[4:8], content, min(after, end)
            start = after
