"""Pieces that come one by one: the same parts as from the whole listing, and no gap between them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from job import parts
from job.detect import model, runner
from job.detect.inference import Inference
from job.detect.model import Detector
from job.detect.pieces import Piece, choose_part_size, cut
from job.storage import Listing
from job.storage.local import LocalFolder
from tests.conftest import picture, settings


@pytest.fixture
def detector(small_rcnn: tuple[Path, Path]) -> Detector:
    return model.build(settings(model=str(small_rcnn[0]), weights=str(small_rcnn[1])))


@pytest.fixture
def source(tmp_path: Path) -> LocalFolder:
    """Ten images, one of which is none."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number, 64, 64))
    (folder / "4.png").write_bytes(b"no image")
    (folder / "9.png").write_bytes(b"no image")
    return LocalFolder(str(folder))


class Heard:
    """Notes what it is told, and which parts are there then."""

    def __init__(self, output: LocalFolder) -> None:
        self.output, self.failures, self.count = output, list[str](), 0
        self.pieces: list[tuple[int, int]] = []

    def failed(self, row: parts.Row) -> None:
        self.failures.append(row.file_name)

    def detected(self, count: int) -> None:
        self.count += count

    def written(self, piece: Piece) -> None:
        self.pieces.append((piece.number, len(parts.list_files(self.output))))


def contents(output: LocalFolder) -> dict[str, bytes]:
    return {file.key: output.read(file.key) for file in parts.list_files(output)}


def test_pieces_that_come_one_by_one_become_the_parts_of_the_whole_listing(
    detector: Detector, source: LocalFolder, tmp_path: Path
) -> None:
    listing, never = Listing.from_entries(source.list()), threading.Event()
    whole, stream = LocalFolder(str(tmp_path / "whole")), LocalFolder(str(tmp_path / "stream"))
    runner.predict(listing, source, whole, detector, set(), batch_size=1, part_size=3, stop=never)
    heard = Heard(stream)
    pieces = cut(listing, np.ones(10, bool), 3)
    runner.detect(pieces, source, stream, detector, Inference(detector, 1), stop=never, told=heard)
    assert contents(stream) == contents(whole)
    assert heard.pieces == [(0, 1), (1, 2), (2, 3), (3, 4)]  # each once its part is there
    assert heard.failures == ["4.png", "9.png"] and heard.count == 10


def test_the_next_piece_is_read_while_the_one_before_is_detected(
    detector: Detector, source: LocalFolder, tmp_path: Path
) -> None:
    listing, never = Listing.from_entries(source.list()), threading.Event()
    heard = Heard(LocalFolder(str(tmp_path / "out")))
    detected_before: list[int] = []

    def come() -> Iterator[Piece]:
        for piece in cut(listing, np.ones(10, bool), 3):
            detected_before.append(heard.count)
            yield piece

    runner.detect(come(), source, heard.output, detector, Inference(detector, 1), stop=never, told=heard)
    assert detected_before[1] < 3, "the second piece was asked for before the first was finished"


def test_a_piece_holds_the_unfinished_images_of_its_place_in_the_listing() -> None:
    listing = Listing.from_names(f"{number}.jpg" for number in range(8))
    todo = np.array([1, 0, 1, 0, 0, 0, 1, 1], bool)
    pieces = [(piece.number, [entry.key for entry in piece.images]) for piece in cut(listing, todo, 3)]
    assert pieces == [(0, ["0.jpg", "2.jpg"]), (2, ["6.jpg", "7.jpg"])]


def test_part_size_follows_the_listing_and_the_batch_size() -> None:
    assert [choose_part_size(None, 10, size) for size in (1, 8, 64)] == [512, 512, 4096]
    assert choose_part_size(None, 1_000_000, 1) == 16_384
    assert choose_part_size(100, 1_000_000, 64) == 100
