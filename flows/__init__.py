"""The analytics: one file per analytic, named for its result."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from schemas.tables.clickhouse import Table


@dataclass(frozen=True, slots=True)
class FlowContract:
    """The contract of a flow: what it reads and writes, and how fresh its rows are."""

    name: str
    about: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    snapshot_every_s: float = 2.0
    """Seconds between snapshots: rows are durable at least this often."""
    tables: tuple[Table, ...] = ()
    """ClickHouse tables that the flow's rows go to."""
    sink_keeps_state: bool = False
    """True where the sink of the rows keeps a state per partition, which moves with the step's
    state."""


def catalogue() -> dict[str, FlowContract]:
    """Return the contract of every flow by name. A flow is a public module of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {
        name: importlib.import_module(f"flows.{name}").CONTRACT
        for name in names
        if not name.startswith("_")
    }
