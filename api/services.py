"""The parts of the HTTP side, all passed in: tests pass their own, start-up the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from footfall.api.aggregates import AggregatesSource
from footfall.api.endpoint import RequestLog
from footfall.api.health import Check
from footfall.api.live import Live
from footfall.api.lookups import Lookups
from footfall.api.metrics import ApiMetrics
from footfall.api.profiles import Profiles
from footfall.api.writing import Writing
from footfall.schemas.addresses import OwnHosts


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running server."""

    writing: Writing
    profiles: Profiles
    aggregates: AggregatesSource
    live: Live
    checks: Mapping[str, Check]
    """The checks of ``/readyz``, by the name that it shows."""
    lookups: Lookups = field(default_factory=Lookups)
    hosts: OwnHosts = field(default_factory=OwnHosts)
    origins: frozenset[str] = frozenset()
    metrics: ApiMetrics = field(default_factory=ApiMetrics)
    request_log: RequestLog = field(default_factory=RequestLog)
    limit_default: int = 200
    debug_answers: bool = False
