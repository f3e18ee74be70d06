"""Categories of the predictions, checked and put into the order of class indices."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job.external.problems import Problems, is_text, shorten

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True)
class Categories:
    """The classes of a COCO file or a Lightly task, whose ids may have gaps.

    Attributes:
        names: Class names, by rising id, which is the order of the class indices.
        index: Class index by id.
        order: (classes,) position of each class, by class index, in the list of categories. Class probabilities in the
            file have the order of that list.
    """

    names: tuple[str, ...]
    index: dict[int, int]
    order: npt.NDArray[np.int64]


def read_categories(entries: Any, uri: str, classes: tuple[str, ...] | None) -> Categories:
    """Reads a list of objects with ``id`` and ``name``.

    Args:
        entries: The list.
        uri: URI of the file that holds it.
        classes: CORAL_CLASSES, by class index.

    Raises:
        SettingsError: If it is not such a list, an id or a name is repeated, or CORAL_CLASSES contradicts it.
    """
    problems = Problems()
    if not isinstance(entries, list) or not entries:
        problems.add(uri, "there is no list of categories. Add one, with the id and the name of every class.")
        entries = []
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("id")) is not int or not is_text(entry.get("name")):
            problems.add(uri, f"the category {shorten(entry)} has no whole-number id or no name. Give it both.")
    problems.raise_if_any()
    ids = [entry["id"] for entry in entries]
    for repeated in _find_repeated(ids):
        problems.add(uri, f"two categories have the id {repeated}. Give every category its own id.")
    problems.raise_if_any()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    names = tuple(entries[position]["name"] for position in order)
    check_class_names(names, uri, classes)
    index = {ids[position]: number for number, position in enumerate(order)}
    return Categories(names, index, np.array(order, np.int64))


def check_class_names(names: tuple[str, ...], uri: str, classes: tuple[str, ...] | None) -> None:
    """Refuses class names that are repeated or contradict CORAL_CLASSES.

    Args:
        names: Class names in the predictions, by class index.
        uri: URI of the file that holds them.
        classes: CORAL_CLASSES, by class index.

    Raises:
        SettingsError: If a name is repeated, or CORAL_CLASSES differs from the names.
    """
    problems = Problems()
    for repeated in _find_repeated(names):
        problems.add(uri, f"two classes have the name {shorten(repeated)}. Give every class its own name.")
    if classes is not None and classes != names:
        problems.add(
            uri,
            f"its classes are {shorten(', '.join(names))}, but CORAL_CLASSES is {shorten(', '.join(classes))}. Remove "
            "CORAL_CLASSES, or list the same classes in the same order.",
        )
    problems.raise_if_any()


def _find_repeated(values: Iterable[T]) -> list[T]:
    seen: set[T] = set()
    repeated = []
    for value in values:
        if value in seen:
            repeated.append(value)
        seen.add(value)
    return repeated
