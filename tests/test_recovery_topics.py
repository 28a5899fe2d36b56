"""A flow of several topics: the states of each partition of each topic are moved and kept."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bytewax.inputs import AbortExecution

from footfall.flows import product_views
from footfall.schemas.settings import SettingError, read_settings
from footfall.schemas.tables.product_views import PRODUCT_USER_VIEWS
from footfall.streams.engine import Outputs, stateful_steps
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import Share
from footfall.streams.testing import NOW_MS, ListSink, MemoryTopic, Result, newest
from tests.laws.worlds import BASE_MS, EVENTS

TOPICS = product_views.FLOW.topics
PARTITIONS = {TOPICS[0]: 4, TOPICS[1]: 3, TOPICS[2]: 1}


def records(topic: str) -> list[list[bytes]]:
    """Return some minutes of a topic's partitions."""
    return [
        [EVENTS[topic](BASE_MS + n * 1_000, n * 7 + partition) for n in range(400)]
        for partition in range(PARTITIONS[topic])
    ]


RECORDS = {topic: records(topic) for topic in TOPICS}


class House:
    """A home, and what its workers wrote."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.result = Result()

    def run(self, share: Share, *, abort_after: int | None = None) -> None:
        """Run one process, to the end of all topics, or broken off after some polls of each."""
        result = self.result
        sinks = (ListSink(items.extend) for items in (result.items, result.dead, result.late))

        def wire(run: Run) -> Any:
            sources = {}
            for topic in TOPICS:
                memory = MemoryTopic(RECORDS[topic], (60, 90, 0), abort_after, topic)
                sources[topic] = run.source(memory)
                sources[topic].clock_ms = lambda: NOW_MS
            with_parts = {
                topic: source for topic, source in sources.items() if source.list_parts()
            }
            return product_views.FLOW.dataflow(
                with_parts or sources, Outputs(*sinks), run.progress
            )

        with suppress(AbortExecution):
            run_worker(
                "product_views",
                wire,
                self.home,
                once=True,
                snapshot_every_s=0.0,
                share=share,
                steps=stateful_steps(TOPICS),
            )

    def table(self) -> Any:
        """Return the content of the table in the end."""
        return newest(self.result.rows, PRODUCT_USER_VIEWS.order_by)


def test_any_number_of_processes_goes_on_where_the_others_were(tmp_path: Path) -> None:
    calm = House(tmp_path / "calm")
    calm.run(Share())
    moved = House(tmp_path / "moved")
    for count, abort_after in ((1, 5), (3, 4), (2, 3), (5, None)):
        for index in range(count):
            moved.run(Share(index, count), abort_after=abort_after)
    assert len(calm.table()) > 100
    assert moved.table().equals(calm.table())
    # Each record once: the counts would be higher otherwise, and versions with them.
    used = sum(map(sum, calm.table().select("views", "impressions").rows()))
    assert used == sum(map(sum, moved.table().select("views", "impressions").rows()))


def test_one_topic_for_a_flow_of_several_is_refused() -> None:
    settings = read_settings({"FOOTFALL_HOME": "/nowhere", "KAFKA_TOPIC": "user_tags"})
    with pytest.raises(SettingError, match="product_views reads platform_logs, store_events"):
        product_views.FLOW.wire(settings, Run(once=True))
