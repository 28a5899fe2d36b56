"""split_topics with a reader of its own, such as one that knows other targets."""

from __future__ import annotations

from dataclasses import replace

from footfall.flows import Flow, Reading, rows
from footfall.flows.split_topics import FLOW, by_kind
from footfall.schemas.topics import SHOP_EVENTS
from footfall.streams.decode import Records


def splitting(records: Records) -> Flow:
    """The flow with another reader of its topic."""
    return replace(FLOW, reads={SHOP_EVENTS: Reading(records, rows(by_kind))})
