"""Streaming analytics: one file per analytic, named for its result, ending in its ``FLOW``.

What a flow is declared with can be imported from here.
"""

from __future__ import annotations

import importlib
import pkgutil

from footfall.flows._flow import Flow, Reading
from footfall.flows._rows import moment, others_of, placed
from footfall.flows._sinks import (
    ClickHouse,
    Messages,
    MinuteBuckets,
    Profiles,
    Sink,
    SqlRollup,
    TopicPerKind,
)
from footfall.schemas.settings import SettingError, Settings
from footfall.streams.batch import ROW, TIME_MS, Batch, TableRows
from footfall.streams.columns import Column, boolean, cents, ident, integer, text
from footfall.streams.decode import Records
from footfall.streams.ordered import fold
from footfall.streams.parts import Parts
from footfall.streams.steps import Choose, StepResult, rows, windows
from footfall.streams.tumbling import EVENTS, VERSION, WINDOW, Tumbling

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
        name: importlib.import_module(f"footfall.flows.{name}").FLOW
        for name in names
        if not name.startswith("_")
    }
