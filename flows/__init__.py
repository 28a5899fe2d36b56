"""What is computed: one file per analytic, named for its result."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass

from schemas.tables.clickhouse import Table


@dataclass(frozen=True, slots=True)
class FlowContract:
    """What a flow promises: where it reads and writes, and how fresh its rows are."""

    name: str
    about: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    snapshot_every_s: float = 2.0
    """Rows are durable at least this often."""
    tables: tuple[Table, ...] = ()
    """Of ClickHouse, where the flow's rows go."""
    sink_keeps_state: bool = False
    """The sink of the rows has a state a partition, which moves with the others."""


def catalogue() -> dict[str, FlowContract]:
    """Every flow by name: the modules of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {
        name: importlib.import_module(f"flows.{name}").CONTRACT
        for name in names
        if not name.startswith("_")
    }
