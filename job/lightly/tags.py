"""The tags of a dataset: named sets of samples, stored as masks over the platform's own order."""

import logging

import numpy as np

from job.lightly import masks
from job.lightly.api import Platform
from job.lightly.records import Dataset, Tag
from job.parts import ledger

logger = logging.getLogger(__name__)

INITIAL = "initial-tag"


class Tags:
    """The tags of a dataset. The constructor makes sure that they cover all samples.

    Args:
        platform: The platform.
        dataset: The dataset on the platform.
        order: File names of all samples in the platform's order.
        image_type: Type of the first tag of a new dataset: full, thumbnail or meta.

    Attributes:
        platform: The platform.
        dataset: The dataset on the platform.
        order: File names of all samples in the platform's order.
        names: File names of all samples, as a set.
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
        """The mask of a set of images; images that the dataset lacks are ignored."""
        return masks.encode(np.array([name in names for name in self.order], bool))

    def find_by_members(self, names: set[str]) -> list[Tag]:
        """Finds the tags of exactly these images, the initial tag first."""
        mask = int(self.mask(names), 16)
        return sorted((tag for tag in self._tags if int(tag.mask, 16) == mask), key=lambda tag: tag.name != INITIAL)

    def find_by_name(self, name: str) -> Tag | None:
        """Finds a tag by its name."""
        return next((tag for tag in self._tags if tag.name == name), None)

    def members(self, tag: Tag) -> list[str]:
        """File names of the samples in a tag, in the platform's order."""
        flags = masks.decode(tag.mask, len(self.order))
        return [name for name, is_member in zip(self.order, flags, strict=True) if is_member]

    def make(self, name: str, names: list[str]) -> Tag | None:
        """Makes a tag of some images, unless it exists.

        A tag with the same name but other images stays unchanged. Then the new tag's name ends in a digest.

        Args:
            name: Name of the tag.
            names: File names of the images; images that the dataset lacks are ignored.

        Returns:
            The tag; None if the dataset has none of the images.
        """
        mask = self.mask(set(names))
        if not int(mask, 16):
            return None
        for candidate in (name, f"{name}-{ledger.name_piece(mask)[:6]}"):
            tag = self.find_by_name(candidate)
            if tag is None:
                tag = self.platform.create_tag(self.dataset, candidate, mask, len(self.order), self._parent(mask))
                self._tags.append(tag)
            if int(tag.mask, 16) == int(mask, 16):
                return tag
            logger.warning("Lightly's tag %r contains other images; leaving it unchanged.", candidate)
        return None

    def _parent(self, mask: str) -> Tag:
        """The smallest tag that contains all samples of a mask; the platform requires a superset as a tag's parent."""
        bits = int(mask, 16)
        supersets = [tag for tag in self._tags if int(tag.mask, 16) & bits == bits]
        if not supersets:
            return self.find_by_name(INITIAL) or self._tags[0]
        return min(supersets, key=lambda tag: (int(tag.mask, 16).bit_count(), tag.name != INITIAL))
