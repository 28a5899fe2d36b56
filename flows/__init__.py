"""Streaming analytics: one file per analytic, named for its result, ending in its ``FLOW``.

What a flow is declared with can be imported from here.
"""

from __future__ import annotations

import importlib
import pkgutil

from flows._flow import Flow, Reading
from flows._rows import moment, others_of, placed
from flows._sinks import (
    ClickHouse,
    Messages,
    MinuteBuckets,
    Profiles,
    Sink,
    SqlRollup,
    TopicPerKind,
)
from schemas.settings import SettingError, Settings
from streams.batch import ROW, TIME_MS, Batch, TableRows
from streams.columns import Column, boolean, cents, ident, integer, text
from streams.decode import Records
from streams.ordered import fold
from streams.parts import Parts
from streams.steps import Choose, StepResult, rows, windows
from streams.tumbling import EVENTS, VERSION, WINDOW, Tumbling

__all__ = [
    "EVENTS",
    "ROW",
    "TIME_MS",
    "VERSION",
    "WINDOW",
    "Batch",
    "Choose",
    "ClickHouse",
    "Column",
    "Flow",
    "Messages",
    "MinuteBuckets",
    "Parts",
    "Profiles",
    "Reading",
    "Records",
    "SettingError",
    "Settings",
    "Sink",
    "SqlRollup",
    "StepResult",
    "TableRows",
    "TopicPerKind",
    "Tumbling",
    "boolean",
    "catalogue",
    "cents",
    "fold",
    "ident",
    "integer",
    "moment",
    "others_of",
    "placed",
    "rows",
    "text",
    "windows",
]


def catalogue() -> dict[str, Flow]:
    """Return every flow by name: the ``FLOW`` of each module of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {
        name: importlib.import_module(f"flows.{name}").FLOW
        for name in names
        if not name.startswith("_")
    }
