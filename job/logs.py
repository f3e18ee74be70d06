"""Log lines: where they go, and their format."""

import logging
import sys
import warnings
from datetime import UTC, datetime
from typing import Any

from pythonjsonlogger.json import JsonFormatter
from tqdm import tqdm

from job.names import escape
from job.secret import hide_secrets

_LEVELS = {
    **dict.fromkeys(("detectron2", "fvcore", "iopath", "PIL", "matplotlib", "lightly"), logging.WARNING),
    "botocore": logging.ERROR,  # a traceback each time that credentials cannot be renewed; our retries are one line
    "torch.fx": logging.ERROR,  # detectron2 makes it warn
    "urllib3": logging.ERROR,  # its warnings contain whole URLs with their signatures
}


class _Handler(logging.Handler):
    """Writes to standard error, without secrets, and above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(hide_secrets(self.format(record)), file=sys.stderr)


_fields: dict[str, Any] = {}


def add_fields(**fields: Any) -> None:
    """Adds fields to all further log lines in JSON, such as the run that they belong to."""
    _fields.update(fields)


class _TextFormatter(logging.Formatter):
    """Text that cannot move a terminal's cursor or forge a line: names come from the user's files."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name
        text = escape(record.message)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _JsonFormatter(JsonFormatter):
    """JSON with times of RFC 3339, in UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # as above
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return time.replace("+00:00", "Z")

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        super().add_fields(log_data, record, message_dict)
        for name, value in _fields.items():
            log_data.setdefault(name, value)


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
        handler.setFormatter(_JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=renamed))
    else:
        handler.setFormatter(_TextFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    if not sys.warnoptions:
        # They concern code that a user of the job cannot change; `python -W default` shows them.
        warnings.simplefilter("ignore")
