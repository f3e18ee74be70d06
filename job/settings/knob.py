"""The declaration of one setting: everything that is known of it besides its type and its default."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

PREFIX = "CORAL_"

# The step of the job that reads a setting: detection (`predict`), selection (`select`), or both.
Step = Literal["predict", "select", "both"]


@dataclass(frozen=True)
class Knob:
    """One setting.

    Attributes:
        env: Name of the environment variable.
        group: Heading under which `--help` and docs/settings.md list it.
        help: What it does, in sentences that can be read alone.
        parse: Turns the text into the value; raises ValueError that says what is accepted.
        metavar: How its value is written in `--help`; empty for a switch.
        shown_default: The default in words.
        step: Which step of the job reads it.
        common: Whether `--help` lists it first, among the settings that most runs need.
        secret: Whether the value must never be printed or stored.
        reads_file: Whether `parse` also takes a function that reads a file.
    """

    env: str
    group: str
    help: str
    parse: Callable[..., Any]
    metavar: str
    shown_default: str
    step: Step
    common: bool
    secret: bool
    reads_file: bool

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
    parse: Callable[..., Any],
    *,
    group: str,
    metavar: str = "TEXT",
    shown_default: str | None = None,
    step: Step = "both",
    common: bool = False,
    secret: bool = False,
    reads_file: bool = False,
) -> Any:
    """Declares a setting as a field of a dataclass; the arguments are the attributes of `Knob`."""
    if shown_default is None:
        shown_default = f"{default:g}" if isinstance(default, float) else str(default)
    declared = Knob(env, group, help, parse, metavar, shown_default, step, common, secret, reads_file)
    return field(default=default, metadata={"knob": declared})
