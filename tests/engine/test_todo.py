"""Pieces that wait, and pieces that end their workers: the bad image is found, and no other is given up."""

from collections.abc import Iterator

import pytest

from job.detect.pieces import Piece
from job.engine.todo import Todo
from job.storage import Listing


def make_pieces(*sizes: int) -> Iterator[Piece]:
    names = iter(f"{number:03}.jpg" for number in range(sum(sizes)))
    for number, size in enumerate(sizes):
        yield Piece(number, Listing.from_names([next(names) for _ in range(size)]))


def names(piece: Piece) -> list[str]:
    return [entry.key for entry in piece.images]


def test_pieces_come_in_order_and_lost_ones_come_next() -> None:
    todo = Todo(make_pieces(2, 2, 2))
    first, second = todo.take(is_idle=True), todo.take(is_idle=False)
    assert first and second and (first.number, second.number) == (0, 1)
    todo.give_back([first])
    numbers = []
    while piece := todo.take(is_idle=False):
        numbers.append(piece.number)
    assert sorted(numbers) == [0, 2] and todo.is_empty()


def test_a_suspect_comes_last_and_alone() -> None:
    todo = Todo(make_pieces(2, 2))
    first = todo.take(is_idle=True)
    assert first and not todo.is_suspect(first)
    assert todo.suspect([first]) == []
    assert todo.is_suspect(first)
    second = todo.take(is_idle=True)
    assert second and second.number == 1
    assert todo.take(is_idle=False) is None and not todo.is_empty()
    assert todo.take(is_idle=True) is first
    todo.finish(first)
    assert todo.is_empty() and not todo.is_suspect(first)


@pytest.mark.parametrize("bad", [{"005.jpg"}, {"000.jpg", "009.jpg"}, {f"{number:03}.jpg" for number in range(10)}])
def test_the_images_that_end_workers_are_given_up_and_all_others_are_detected(bad: set[str]) -> None:
    todo = Todo(make_pieces(4, 4, 2))
    detected: list[str] = []
    given_up: list[tuple[str, int]] = []
    for _ in range(1000):
        piece = todo.take(is_idle=True)
        if piece is None:
            break
        if bad & set(names(piece)):
            given_up += [(entry.key, losses) for entry, losses in todo.suspect([piece])]
        else:
            detected += names(piece)
            todo.finish(piece)
    assert todo.is_empty()
    assert sorted(key for key, _ in given_up) == sorted(bad)
    assert sorted(detected) == sorted({f"{number:03}.jpg" for number in range(10)} - bad)
    assert all(losses >= 3 for _, losses in given_up)


def test_a_piece_beside_the_bad_one_is_not_blamed() -> None:
    """Two pieces are at a worker. Which one ended it shows when each is alone."""
    todo = Todo(make_pieces(1, 1))
    both = [todo.take(is_idle=True), todo.take(is_idle=False)]
    assert todo.suspect([piece for piece in both if piece]) == []
    good = todo.take(is_idle=True)
    assert good is both[0] and good
    todo.finish(good)
    bad = todo.take(is_idle=True)
    assert bad is both[1] and bad
    assert todo.suspect([bad]) == []
    assert todo.take(is_idle=True) is bad
    assert [(entry.key, losses) for entry, losses in todo.suspect([bad])] == [("001.jpg", 3)]


def test_lost_machines_blame_no_piece() -> None:
    todo = Todo(make_pieces(2))
    for _ in range(5):
        piece = todo.take(is_idle=True)
        assert piece and names(piece) == ["000.jpg", "001.jpg"]
        todo.give_back([piece])
