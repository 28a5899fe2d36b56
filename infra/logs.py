"""Logs of long-running processes: to standard error, by the standard library.

Plain lines on a terminal, and one JSON object per line elsewhere, unless LOG_FORMAT says which.
Level info tells what a process does, and never what is in a record.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TextIO

from footfall.schemas.addresses import scheme_of
from footfall.schemas.settings import Settings
from footfall.schemas.times import iso_ms

_STANDARD = {*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"}
"""Attributes that every log record has; all others were given with a line."""


def footfall_version() -> str:
    """Return the version of the package; "unknown" where it runs without being installed."""
    try:
        return version("footfall")
    except PackageNotFoundError:
        return "unknown"


def set_up_logs(settings: Settings, process: str, **of_process: object) -> None:
    """Log to standard error from now on; ``of_process`` is in every line."""
    handler = _ToStandardError()
    by_format: dict[str, logging.Formatter] = {
        "PLAIN": PlainLines(process),
        "JSON": JsonLines({"process": process, **of_process}),
    }
    usual = "PLAIN" if sys.stderr.isatty() else "JSON"
    handler.setFormatter(by_format[settings.log_format or usual])
    root = logging.getLogger()
    for before in [one for one in root.handlers if isinstance(one, _ToStandardError)]:
        root.removeHandler(before)
    root.addHandler(handler)
    # Libraries log only what is wrong.
    root.setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    logging.getLogger("footfall").setLevel(settings.log_level)


def log_start(log: logging.Logger, settings: Settings, default: Settings) -> None:
    """Log the version and all settings; the text has those that differ from ``default``."""
    shown, usual = shown_settings(settings), shown_settings(default)
    given = [f"{name}={value}" for name, value in shown.items() if value != usual[name]]
    log.info(
        "started: footfall %s, process %d%s",
        footfall_version(),
        os.getpid(),
        f"; {', '.join(given)}" if given else "",
        extra={"version": footfall_version(), "pid": os.getpid(), "settings": shown},
    )


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings as anybody may see them: of an address only the scheme."""
    shown: dict[str, Any] = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.repr:
            plain = isinstance(value, bool | int | float | str | tuple | None)
            shown[field.name] = value if plain else str(value)
        elif value:
            is_url = field.name.endswith("_url")
            shown[field.name] = f"{scheme_of(value)}://..." if is_url else "(hidden)"
        else:
            shown[field.name] = ""
    return shown


class PlainLines(logging.Formatter):
    """Lines for a person: time, level, process and text."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process.replace('%', '%%')}: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Return the time in UTC."""
        return iso_ms(int(record.created * 1000))


class JsonLines(logging.Formatter):
    """Lines for a collector of logs: one JSON object each."""

    def __init__(self, of_process: Mapping[str, object]) -> None:
        super().__init__()
        self._of_process = of_process

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as text."""
        line = {
            "time": iso_ms(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._of_process,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Writes to the standard error of the moment: a worker redirects it for native messages."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        """Return standard error as it is now."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Refuse another stream."""
        raise AttributeError("logs go to standard error")
