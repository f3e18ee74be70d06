"""The tags of a dataset: sets of samples, written as masks over the platform's own order."""

import logging

import numpy as np

from job.lightly import masks
from job.lightly.api import Dataset, Platform, Tag
from job.parts import ledger

logger = logging.getLogger(__name__)

INITIAL = "initial-tag"


class Tags:
    """The tags of a dataset, once they know of all its samples.

    Args:
        platform: Where.
        dataset: Where there.
        order: File names of all samples in the platform's order.
        image_type: full, thumbnail or meta, for the first tag of a new dataset.

    Attributes:
        platform: As given.
        dataset: As given.
        order: As given.
        names: The same without an order.
    """

    def __init__(self, platform: Platform, dataset: Dataset, order: list[str], image_type: str) -> None:
        self.platform, self.dataset, self.order = platform, dataset, order
        self.names = set(order)
        self._tags = platform.tags(dataset)
        if order and not self._tags:
            platform.create_initial_tag(dataset, image_type)
            self._tags = platform.tags(dataset)
        elif any(tag.size < len(order) for tag in self._tags):
            platform.enlarge_tags(dataset, f"coral-added-{len(order)}-{ledger.name_piece(order)[:6]}")
            self._tags = platform.tags(dataset)

    def mask(self, names: set[str]) -> str:
        """The mask of some images; those that are not there are left out."""
        return masks.encode(np.array([name in names for name in self.order], bool))

    def having(self, names: set[str]) -> list[Tag]:
        """The tags of exactly these images, the initial one first."""
        mask = int(self.mask(names), 16)
        return sorted((tag for tag in self._tags if int(tag.mask, 16) == mask), key=lambda tag: tag.name != INITIAL)

    def named(self, name: str) -> Tag | None:
        """The tag of a name."""
        return next((tag for tag in self._tags if tag.name == name), None)

    def members(self, tag: Tag) -> list[str]:
        """File names of the samples in a tag."""
        inside = masks.decode(tag.mask, len(self.order))
        return [name for name, is_in in zip(self.order, inside, strict=True) if is_in]

    def make(self, name: str, names: list[str]) -> Tag | None:
        """A tag of some images; None if none of them is there.

        One that is there already is not made again. If it has that name but other images, it is left as it is, and ours
        gets a name of its own.
        """
        mask = self.mask(set(names))
        if not int(mask, 16):
            return None
        for each in (name, f"{name}-{ledger.name_piece(mask)[:6]}"):
            found = self.named(each)
            if found is None:
                found = self.platform.create_tag(self.dataset, each, mask, len(self.order), self._parent(mask))
                self._tags.append(found)
            if int(found.mask, 16) == int(mask, 16):
                return found
            logger.warning("Lightly's tag %r holds other images, and is left as it is.", each)
        return None

    def _parent(self, mask: str) -> Tag:
        """The smallest tag that holds all of a mask; the platform wants a superset as the parent of a tag."""
        inside = int(mask, 16)
        holding = [tag for tag in self._tags if int(tag.mask, 16) & inside == inside]
        if not holding:
            return self.named(INITIAL) or self._tags[0]
        return min(holding, key=lambda tag: (int(tag.mask, 16).bit_count(), tag.name != INITIAL))
