"""The colours of classes and groups: the same class has one colour on boxes, in lists and on the map."""

from collections.abc import Sequence

# The first eight are those of Okabe and Ito, lightened where black text on them would be hard to read.
_BASE = (
    "#e69f00",
    "#56b4e9",
    "#2fb98c",
    "#f0e442",
    "#ef7f3a",
    "#de8fba",
    "#6aa5e8",
    "#b3a7f0",
    "#b8b84a",
    "#5cc4c0",
    "#d3906a",
    "#c58ee0",
)
_TINT = 0.55  # of white in the second half of the colours


def _lighten(color: str) -> str:
    channels = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (255 - channel) * _TINT):02x}" for channel in channels)


PALETTE = (*_BASE, *map(_lighten, _BASE))
OTHER = "#9aa3b0"


def assign(names: Sequence[str]) -> dict[str, int]:
    """Gives each class a number of the palette.

    Args:
        names: Class names, the most frequent first. Two classes share a colour only if there are more than colours.
    """
    return {name: number % len(PALETTE) for number, name in enumerate(names)}
