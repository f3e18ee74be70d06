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
_MAX_INDEX_BYTES = 1 << 29


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
        start = 0
        while start + _HEADER_BYTES <= self._size:
            header = self._read_at(start, _LONG_HEADER_BYTES)
            length, content = int.from_bytes(header[:4], "big"), start + _HEADER_BYTES
            if length == _LONG:
                length, content = int.from_bytes(header[8:], "big"), start + _LONG_HEADER_BYTES
            end = self._size if length == _TO_THE_END else start + length
            if end < content:  # no box; whatever follows is read as it is
                return
            if header[4:8] == b"mdat":
                yield content, min(end, self._size)
            elif header[4:8] in (b"moov", b"moof"):
                boxes = self._read_at(content, min(end - content, _MAX_INDEX_BYTES))
                self.most_frames = max(self.most_frames, *_read_counts(boxes))
            start = end


def _read_counts(boxes: bytes) -> Iterator[int]:
    """Yields the numbers of frames in the tables of boxes, but for sound."""
    yield 0
    start = 0
    while start + _HEADER_BYTES <= len(boxes):
        end = start + int.from_bytes(boxes[start : start + 4], "big")
        kind, content = boxes[start + 4 : start + 8], boxes[start + 8 : end]
        if end < start + _HEADER_BYTES:
            return
        if kind in _OF_BOXES and not _is_sound(content):
            yield from _read_counts(content)
        elif kind in _COUNTS:
            yield int.from_bytes(content[_COUNTS[kind] : _COUNTS[kind] + 4], "big")
        start = end


def _is_sound(boxes: bytes) -> bool:
    """Whether a track is sound, which may have a table of as many entries as it has samples: it is not read."""
    place = boxes.find(b"hdlr")
    return place >= 0 and boxes[place + 12 : place + 16] == b"soun"
