"""What the user asks for: every setting, from its text to its value."""

from job.settings.schema import Settings, knobs

__all__ = ["Settings", "knobs"]
