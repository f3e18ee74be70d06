"""What is known of a setting besides its type and default."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PREFIX = "CORAL_"


@dataclass(frozen=True)
class Knob:
    """One setting.

    Attributes:
        env: Name of the environment variable.
        group: Heading under which `--help` and the README list it.
        help: What it means, in one sentence.
        parse: Turns the given text into the value; raises ValueError that says what is accepted.
        metavar: How its value is written in `--help`.
        shown_default: The default in words.
        secret: Whether what is given must not be seen.
    """

    env: str
    group: str
    help: str
    parse: Callable[[str], Any]
    metavar: str
    shown_default: str
    secret: bool

    @property
    def option(self) -> str | None:
        """The command-line flag; None for a secret, which others could read in the list of processes."""
        if self.secret or not self.env.startswith(PREFIX):
            return None
        return "--" + self.env.removeprefix(PREFIX).lower().replace("_", "-")


def knob(
    env: str,
    default: Any,
    help: str,  # the word of every option parser
    parse: Callable[[str], Any],
    *,
    group: str,
    metavar: str = "TEXT",
    shown_default: str | None = None,
    secret: bool = False,
) -> Any:
    """Declares a setting, as a field of a dataclass; the arguments are the attributes of `Knob`."""
    if shown_default is None:
        shown_default = f"{default:g}" if isinstance(default, float) else str(default)
    return field(default=default, metadata={"knob": Knob(env, group, help, parse, metavar, shown_default, secret)})
