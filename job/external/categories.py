"""The classes that predictions name."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job.external.problems import Problems, is_text, shown

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Categories:
    """The classes of COCO and of Lightly, whose ids may have holes.

    Attributes:
        names: In the order of rising ids, which is that of the class indices.
        index: Class index by id.
        order: (classes,) where each class, by index, stands in the list of categories, whose order probabilities have.
    """

    names: tuple[str, ...]
    index: dict[int, int]
    order: npt.NDArray[np.int64]


def read(found: Any, where: str, classes: tuple[str, ...] | None) -> Categories:
    """Reads a list of objects with ``id`` and ``name``.

    Args:
        found: The list.
        where: The file that it is in.
        classes: CORAL_CLASSES.

    Raises:
        SettingsError: It is no such list, an id or a name occurs twice, or CORAL_CLASSES says otherwise.
    """
    problems = Problems()
    if not isinstance(found, list) or not found:
        problems.add(where, "it has no list of categories: add one of objects with id and name.")
        found = []
    for each in found:
        if not isinstance(each, dict) or type(each.get("id")) is not int or not is_text(each.get("name")):
            problems.add(where, f"the category {shown(each)} has no whole number for its id, or no name: give it both.")
    problems.settle()
    ids = [each["id"] for each in found]
    for twice in _repeated(ids):
        problems.add(where, f"two categories have the id {twice}: give each one of its own.")
    problems.settle()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    names = tuple(found[position]["name"] for position in order)
    check_names(names, where, classes)
    index = {ids[position]: number for number, position in enumerate(order)}
    return Categories(names, index, np.array(order, np.int64))


def check_names(names: tuple[str, ...], where: str, classes: tuple[str, ...] | None) -> None:
    """Refuses class names that occur twice, or that CORAL_CLASSES contradicts.

    Raises:
        SettingsError: They do.
    """
    problems = Problems()
    for each in _repeated(names):
        problems.add(where, f"two classes have the name {shown(each)}: give each one of its own.")
    if classes is not None and classes != names:
        problems.add(
            where,
            f"its classes are {shown(', '.join(names))}, and CORAL_CLASSES is {shown(', '.join(classes))}: leave "
            "CORAL_CLASSES out, or name the same in the same order.",
        )
    problems.settle()


def _repeated(values: Iterable[T]) -> list[T]:
    seen: set[T] = set()
    twice = []
    for each in values:
        if each in seen:
            twice.append(each)
        seen.add(each)
    return twice
