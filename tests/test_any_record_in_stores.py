"""Whatever a flow uses, its stores hold: odd values come through every writer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from footfall.cli.databases import ask_clickhouse
from footfall.schemas.topics import (
    PARTITIONS_DEFAULT,
    PLATFORM_LOGS,
    SHOP_EVENTS,
    STORE_EVENTS,
    USER_TAGS,
)
from tests.clickhouse_support import Server, any_server
from tests.fuzz_support import every_value
from tests.truth_support import WAYS, run_all, settings_of

pytest.importorskip("chdb", reason="chdb is not installed")


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with any_server(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


def test_every_value_at_every_field_comes_through_every_writer(
    clickhouse: Server, tmp_path: Path
) -> None:
    topics = {}
    for topic in (PLATFORM_LOGS, SHOP_EVENTS, STORE_EVENTS, USER_TAGS):
        records = [record for _, _, record in every_value(topic.name)]
        topics[topic.name] = [records[n::PARTITIONS_DEFAULT] for n in range(PARTITIONS_DEFAULT)]
    settings = settings_of(tmp_path, clickhouse.url)
    run_all(settings, topics, WAYS[0], Random(1))
    for table in ("user_trace", "request_trace", "minute_buckets", "product_views_per_minute"):
        ((count,),) = ask_clickhouse(settings, f"SELECT count() FROM {table}")[1]
        assert count > 0
