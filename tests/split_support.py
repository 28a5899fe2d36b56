"""split_topics with a reader of its own, such as one that knows other targets."""

from __future__ import annotations

from dataclasses import replace

from flows import Flow, Reading, rows
from flows.split_topics import FLOW, by_kind
from schemas.topics import SHOP_EVENTS
from streams.decode import Records


def splitting(records: Records) -> Flow:
    """The flow with another reader of its topic."""
    return replace(FLOW, reads={SHOP_EVENTS: Reading(records, rows(by_kind))})
