"""Where log lines go and what they look like."""

import logging
import sys
import warnings

from pythonjsonlogger.json import JsonFormatter
from tqdm import tqdm

from job.secret import hide_secrets

_LEVELS = {
    **dict.fromkeys(("detectron2", "fvcore", "iopath", "PIL", "matplotlib", "lightly"), logging.WARNING),
    "torch.fx": logging.ERROR,  # detectron2 asks it a question that it warns about
    "urllib3": logging.ERROR,  # its warnings hold whole URLs, signatures and all
}


class _Handler(logging.Handler):
    """Writes to standard error, without secrets and without breaking a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(hide_secrets(self.format(record)), file=sys.stderr)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def is_json(log_format: str) -> bool:
    """Whether a CORAL_LOG_FORMAT means JSON here."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def configure(log_format: str) -> None:
    """Sets up logging for the whole process.

    Args:
        log_format: ``text``, ``json`` or ``auto``.
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
        # They are about code that the user of the job cannot change; `python -W default` brings them back.
        warnings.simplefilter("ignore")
