"""The result of a selection, and its forms for notebooks: text, HTML and data frames."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from job.select.greedy import Pick
from job.select.points import Array

if TYPE_CHECKING:
    import pandas
    import polars

_MAX_HTML_ROWS = 20


@dataclass(frozen=True)
class Factor:
    """A value of each image that does not depend on the other picks.

    Attributes:
        name: Name of the factor, for people.
        values: (n,) finite and not negative.
        strength: Exponent of the values.
    """

    name: str
    values: Array
    strength: float = 1.0


@dataclass(frozen=True, repr=False)
class Selection:
    """The result of a selection.

    Attributes:
        picks: The picks, best first.
        factors: The factors in their values, besides distances and balances.
    """

    picks: list[Pick]
    factors: list[Factor] = field(default_factory=list)

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """(picks,) rows of the picked images, best first."""
        return np.array([pick.index for pick in self.picks], np.int64)

    def to_columns(self) -> Mapping[str, list[Any]]:
        """The picks as columns, best first.

        Returns:
            ``rank`` (from 1), ``index``, ``value``, ``distance`` and ``nearest`` of each pick, then one column with the
            value of each factor, by its name. `Pick` describes them; None stands for no distance yet.
        """
        columns: dict[str, list[Any]] = {
            "rank": list(range(1, len(self.picks) + 1)),
            "index": [pick.index for pick in self.picks],
            "value": [pick.value for pick in self.picks],
            "distance": [pick.distance for pick in self.picks],
            "nearest": [pick.nearest for pick in self.picks],
        }
        return columns | {factor.name: factor.values[self.indices].tolist() for factor in self.factors}

    def to_pandas(self) -> "pandas.DataFrame":
        """The picks as a data frame of pandas, one row per pick, best first.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas() needs pandas: install it with `pip install pandas`.") from error
        return pandas.DataFrame(self.to_columns()).astype({"distance": "float64", "nearest": "Int64"})

    def to_polars(self) -> "polars.DataFrame":
        """The picks as a data frame of polars, one row per pick, best first.

        Raises:
            ImportError: If polars is not installed.
        """
        try:
            import polars
        except ImportError as error:
            raise ImportError("to_polars() needs polars: install it with `pip install polars`.") from error
        return polars.DataFrame(
            self.to_columns(), schema_overrides={"distance": polars.Float64, "nearest": polars.Int64}
        )

    def __repr__(self) -> str:
        shown = ", ".join(str(pick.index) for pick in self.picks[:5])
        more = ", ..." if len(self.picks) > 5 else ""
        factors = ", ".join(factor.name for factor in self.factors)
        return f"Selection({len(self.picks)} picks, indices=[{shown}{more}], factors=[{factors}])"

    def _repr_html_(self) -> str:
        columns = self.to_columns()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        rows = "".join(
            f"<tr>{''.join(f'<td>{_show(value)}</td>' for value in row)}</tr>"
            for row in list(zip(*columns.values(), strict=True))[:_MAX_HTML_ROWS]
        )
        hidden = len(self.picks) - _MAX_HTML_ROWS
        more = f"<p>{hidden} more</p>" if hidden > 0 else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def _show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
