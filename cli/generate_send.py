"""Sends the records of ``footfall generate``: into topics, each row once, or over HTTP."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from threading import Event
from typing import TYPE_CHECKING

from footfall.cli.errors import FailureError
from footfall.cli.home import Home
from footfall.cli.terminal import CLEARED, moves_cursor
from footfall.schemas.settings import Settings, read_settings

if TYPE_CHECKING:
    from footfall.generator.http_lane import RequestCounts
    from footfall.generator.sources import Record, Source, TopicView, TopicWriter
    from footfall.generator.tags import TagWorld


def push_source(
    source: Source,
    args: argparse.Namespace,
    *,
    rate_per_s: float | None = None,
    speed: float | None = None,
    without: str | None = None,
    can_resume: bool = True,
) -> int:
    """Send a source to its topics from where it was, until it ends or is stopped."""
    from footfall.cli.topics import topic_view
    from footfall.generator.counted import CountedWriter
    from footfall.generator.drive import push
    from footfall.generator.progress import ProgressFile
    from footfall.schemas.targets import scrape_target
    from footfall.sinks.open import open_topics
    from footfall.streams.monitor import serving

    settings = read_settings(os.environ)
    home = Home(settings.footfall_home)
    home.make()
    name = _rename(settings, source.topics)
    progress = None
    if can_resume:
        progress = ProgressFile(
            home.generator / f"{source.name}.json",
            _renamed_view(topic_view(settings), name),
            target=settings.topics_url,
            fresh=args.fresh,
        )
    writer = open_topics(settings)
    counted, host = CountedWriter(writer), settings.metrics_hostname
    try:
        with (
            serving(host, 0, [counted]) as port,
            scrape_target(home.path, f"generate.{source.name}", host, port),
        ):
            result = push(
                source,
                _RenamedWriter(counted, name, without),
                rate_per_s=rate_per_s,
                speed=speed,
                total=args.total,
                progress=progress,
                startup_delay_s=settings.producer_startup_delay_s,
                # A pipe that gives nothing would not let a flag be seen: a signal ends it at once.
                stop=_stop_on_signals() if can_resume else None,
                report=lambda report: _progress_line(report.line()),
                log=last_line if settings.print_producer_logs else None,
            )
    finally:
        writer.close()
    last_line(result.line())
    return 0


def push_over_http(world: TagWorld, args: argparse.Namespace, rate_per_s: float | None) -> int:
    """Send tags to a running api. Raises FailureError where it goes away."""
    from footfall.generator.http_load import push_http

    result = push_http(
        world,
        args.http,
        rate_per_s=rate_per_s,
        clients=args.clients,
        total=args.total,
        profile_rate_per_s=args.queries_per_s,
        stop=_stop_on_signals(),
        report=lambda report: _progress_line(report.line()),
    )
    for name, counts in (("tags", result.tags), ("profiles", result.profiles)):
        if counts.sent:
            last_line(f"{name}: {_counts_text(counts)}")
    if result.ended_by == "no_server":
        raise FailureError(f"the server at {args.http} went away")
    return 0


def _counts_text(counts: RequestCounts) -> str:
    answers = ", ".join(f"{count:,} x {code}" for code, count in sorted(counts.by_status.items()))
    latency = counts.latency
    return (
        f"{counts.sent:,} sent, {counts.rate_per_s:,.0f}/s, answers {answers or 'none'}, "
        f"{counts.unanswered:,} without an answer; half within {latency.p50_ms:.1f} ms, "
        f"99% within {latency.p99_ms:.1f} ms, slowest {latency.max_ms:.1f} ms"
    )


def _stop_on_signals() -> Event:
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _rename(settings: Settings, topics: Sequence[str]) -> Callable[[str], str]:
    """Return a function that names topics: KAFKA_TOPIC replaces the first topic of a source."""
    about = topics[0]
    return lambda topic: (settings.kafka_topic or topic) if topic == about else topic


class _RenamedWriter:
    def __init__(
        self, writer: TopicWriter, name: Callable[[str], str], without: str | None
    ) -> None:
        self._writer = writer
        self._name = name
        self._without = without

    def write(self, topic: str, records: Sequence[Record]) -> None:
        if topic != self._without:
            self._writer.write(self._name(topic), records)


def _renamed_view(view: TopicView, name: Callable[[str], str]) -> TopicView:
    from footfall.generator.sources import TopicView

    return TopicView(
        end_offsets=lambda topic: view.end_offsets(name(topic)),
        read_tail=lambda topic, partition, offset: view.read_tail(name(topic), partition, offset),
        partition_of=lambda topic, key: view.partition_of(name(topic), key),
    )


def _progress_line(text: str) -> None:
    if moves_cursor(sys.stdout):
        print(f"{CLEARED}{text}", end="", flush=True)
    else:
        print(text, flush=True)


def last_line(text: str) -> None:
    """Print a line that stays, in place of the progress line."""
    if moves_cursor(sys.stdout):
        print(CLEARED, end="")
    print(text, flush=True)
