"""Which frames of a video are images of the input."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # settings are parsed without it
    import numpy as np
    import numpy.typing as npt

_FORM = re.compile(r"(all|none)|every:(\d{1,6})|fps:(\d{1,4}(?:\.\d{1,6})?)")


@dataclass(frozen=True)
class Sampling:
    """A rule for the frames of a video; its text is the value of CORAL_FRAMES.

    Attributes:
        kind: ``all``; ``none``, if videos are skipped; ``every``, with the distance in frames; or ``fps``, with the
            number of frames per second.
        value: That number; 1 for ``all`` and ``none``.
    """

    kind: Literal["all", "none", "every", "fps"]
    value: float = 1

    @property
    def skips_videos(self) -> bool:
        """Whether videos are no part of the input."""
        return self.kind == "none"

    @classmethod
    def parse(cls, text: str) -> "Sampling":
        """Parses ``all``, ``none``, ``every:10`` or ``fps:2``.

        Raises:
            ValueError: If the text has another form, or its number is 0.
        """
        match = _FORM.fullmatch(text.strip().lower())
        if not match:
            raise ValueError("must be all, none, every:N (every Nth frame) or fps:N (N frames per second)")
        if match[1]:
            return cls("none" if match[1] == "none" else "all")
        kind: Literal["every", "fps"] = "every" if match[2] else "fps"
        value = float(match[2] or match[3])
        if not value:
            raise ValueError(f"{kind}: needs a number above 0")
        return cls(kind, value)

    def __str__(self) -> str:
        return self.kind if self.kind in ("all", "none") else f"{self.kind}:{self.value:g}"

    def choose(self, seconds: "npt.NDArray[np.float64]") -> "npt.NDArray[np.int64]":
        """Chooses frames.

        With ``fps``, time is cut into intervals of equal length that begin at the first frame, and the first frame of
        each is chosen. Variable rates need no other rule.

        Args:
            seconds: (n,) time of each frame, ascending.

        Returns:
            Numbers of the chosen frames, ascending.
        """
        import numpy as np

        numbers = np.arange(len(seconds), dtype=np.int64)
        if self.kind == "every":
            return numbers[:: int(self.value)]
        if self.kind == "none":
            return numbers[:0]
        if self.kind == "all" or not len(seconds):
            return numbers
        # Times are rounded to ticks of the file's clock, so a frame may come just before its interval begins.
        intervals = np.floor((seconds - seconds[0]) * self.value + 1e-3)
        chosen: npt.NDArray[np.int64] = numbers[np.concatenate([[True], np.diff(intervals) > 0])]
        return chosen
