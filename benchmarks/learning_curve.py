"""The control of `benchmarks.quality`: what random images would have given, read off a fitted learning curve.

A strategy is compared with random images of the same cost, in images or in boxes. One random set of that cost would
add its own noise. So several random sets of several sizes are measured, and a quadratic in the logarithm of the cost
is fitted to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

COSTS = ("image", "box")


class Point(NamedTuple):
    """A trained detector: the number of images and of boxes it learned from, and its AP50."""

    images: int
    boxes: int
    ap50: float

    def cost(self, unit: str) -> int:
        """What the labels cost, in images or in boxes."""
        return self.images if unit == "image" else self.boxes


@dataclass(frozen=True)
class Curve:
    """AP50 of random images, as a quadratic in the logarithm of their cost.

    Attributes:
        coefficients: Those of `numpy.polyval`.
        unit: "image" or "box".
        low: Lowest cost that was measured.
        high: Highest cost that was measured.
    """

    coefficients: Any
    unit: str
    low: int
    high: int

    def gain(self, point: Point) -> float:
        """AP50 of a point less that of random images of the same cost; beyond the measured costs, of the nearest.

        The curve is flat beyond its ends, where a quadratic would turn down. So a picked set that costs more than all
        random sets would get too high a gain: the largest random sets must cost more than any picks.
        """
        cost = min(max(point.cost(self.unit), self.low), self.high)
        return float(point.ap50 - np.polyval(self.coefficients, np.log(cost)))


def fit(points: Sequence[Point], unit: str) -> Curve:
    """Fits the curve of random images.

    Args:
        points: Random sets of at least three costs around those of the picks. Sets that are much smaller would bend
            the curve.
        unit: "image" or "box".
    """
    costs = [point.cost(unit) for point in points]
    coefficients = np.polyfit(np.log(costs), [point.ap50 for point in points], 2)
    return Curve(coefficients, unit, min(costs), max(costs))


def estimate(values: Sequence[float]) -> dict[str, Any]:
    """The mean of paired differences with its 95 % t-interval.

    Returns:
        ``mean``, ``low``, ``high`` (both None for fewer than two values), and ``wins``, the number of values above 0.
    """
    mean = float(np.mean(values))
    result = {"mean": mean, "low": None, "high": None, "wins": int(np.sum(np.array(values) > 0))}
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
        result |= {"low": mean - float(half), "high": mean + float(half)}
    return result
