"""Log lines: where they go, and their format."""

import logging
import sys
import warnings

from pythonjsonlogger.json import JsonFormatter
from tqdm import tqdm

from job.secret import hide_secrets

_LEVELS = {
    **dict.fromkeys(("detectron2", "fvcore", "iopath", "PIL", "matplotlib", "lightly"), logging.WARNING),
    "torch.fx": logging.ERROR,  # detectron2 makes it warn
    "urllib3": logging.ERROR,  # its warnings contain whole URLs with their signatures
}


class _Handler(logging.Handler):
    """Writes to standard error, without secrets, and above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(hide_secrets(self.format(record)), file=sys.stderr)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def is_json(log_format: str) -> bool:
    """Returns whether log lines are JSON: ``auto`` means JSON unless standard error is a terminal."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def configure(log_format: str) -> None:
    """Configures logging for the whole process.

    Args:
        log_format: ``text``, ``json`` or ``auto`` (CORAL_LOG_FORMAT).
    """
    handler = _Handler()
    if is_json(log_format):
        renamed = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed))
    else:
        handler.setFormatter(_TextFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if not sys.warnoptions:
        # They concern code that a user of the job cannot change; `python -W default` shows them.
        warnings.simplefilter("ignore")
