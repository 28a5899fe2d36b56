"""Opens the services that the settings name, and closes them again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from footfall.api.clickhouse import ClickHouse, MinuteBuckets
from footfall.api.endpoint import RequestLog
from footfall.api.health import Check
from footfall.api.live import Live, LiveSources
from footfall.api.lookups import Lookups
from footfall.api.metrics import ApiMetrics
from footfall.api.profiles import Profiles
from footfall.api.services import Services
from footfall.api.shop_tables import ShopTables
from footfall.api.tables import MinutesSource, WindowsSource
from footfall.api.tails import FileTail, KafkaTail, Tail
from footfall.api.workers import WorkerMeter
from footfall.api.writing import GroupCommit, Writing
from footfall.operations.observer import Observer
from footfall.operations.sent import read_sent
from footfall.schemas.addresses import OwnHosts
from footfall.schemas.settings import Settings
from footfall.schemas.topics import ACTIVITIES, STORE_EVENTS, USER_TAGS, VISITS
from footfall.sinks.open import open_topics

PROBE_BYTES = 4096


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """Open the services of these settings, inside a running event loop.

    A server that does not answer is no error here: ``/readyz`` names it, its routes say 503.
    """
    # Clients of servers are imported where they are opened: tests need none of them.
    from footfall.sinks.open import open_profiles

    async with AsyncExitStack() as opened:
        writing, tail = _open_topics(settings)
        opened.callback(tail.close)
        opened.push_async_callback(writing.close)
        clickhouse = ClickHouse(settings.clickhouse_url, settings.footfall_home)
        opened.push_async_callback(clickhouse.close)
        buckets = MinuteBuckets(clickhouse)
        store = open_profiles(settings)
        opened.callback(store.close)
        profiles = Profiles(store)
        opened.callback(profiles.close)
        checks: dict[str, Check] = {
            "topics": writing.check,
            "clickhouse": buckets.check,
            "profiles": profiles.check,
        }
        live = _open_live(settings, clickhouse, tail, checks, opened)
        live.start()
        opened.push_async_callback(live.close)
        yield Services(
            writing=writing,
            profiles=profiles,
            aggregates=buckets,
            live=live,
            checks=checks,
            lookups=Lookups(clickhouse),
            hosts=OwnHosts(settings.frontend_hostname, settings.allowed_hosts),
            origins=frozenset(settings.allowed_origins),
            metrics=ApiMetrics(),
            request_log=RequestLog(settings.use_logger, settings.log_headers, settings.log_body),
            limit_default=settings.default_limit,
            debug_answers=settings.footfall_debug_answers,
        )


def _open_topics(settings: Settings) -> tuple[Writing, Tail]:
    folder = settings.topics_folder
    if folder is not None:
        writer = open_topics(settings)
        return GroupCommit(writer, partial(probe_folder, folder)), FileTail(folder)
    from footfall.api.kafka_writing import KafkaWriting

    assert settings.kafka_bootstrap is not None
    names = [topic.name for topic in (USER_TAGS, STORE_EVENTS, VISITS, ACTIVITIES)]
    return (
        KafkaWriting(settings.kafka_bootstrap, names),
        KafkaTail(settings.kafka_bootstrap),
    )


def _open_live(
    settings: Settings,
    clickhouse: ClickHouse,
    tail: Tail,
    checks: Mapping[str, Check],
    opened: AsyncExitStack,
) -> Live:
    meter = WorkerMeter()
    # Asking Kafka's consumer groups every other second costs too much; flows of this home have
    # status files.
    observer = Observer(settings, asks_groups=False)
    minutes = MinutesSource(clickhouse, partial(meter.watermark_ms, "minute_buckets"))
    windows = WindowsSource(settings.postgres_url, partial(meter.watermark_ms, "store_metrics"))
    opened.callback(windows.close)
    return Live(
        LiveSources(
            meter=meter,
            look=observer.look,
            look_again=observer.look_again,
            sent=partial(read_sent, settings.footfall_home),
            minutes=minutes.minutes,
            top=minutes.top,
            windows=windows.windows,
            newest=tail.newest,
            shop=ShopTables(clickhouse, meter.topic_watermark_ms, meter.watermark_ms),
            checks=checks,
        )
    )


def probe_folder(folder: Path) -> None:
    """Write a small file and take it away. Raises OSError where the folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".writable"
    try:
        probe.write_bytes(b"\0" * PROBE_BYTES)
    finally:
        probe.unlink(missing_ok=True)
