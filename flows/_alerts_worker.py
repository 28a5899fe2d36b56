"""``login_alerts`` as a worker on Kafka: each failure is answered when it comes.

Delivery    at-least-once: an alert is acknowledged before any state has its failures, so that
            after a crash it is written again, with the same identity (user_id, time)
State       the table's changelog, which also says where to resume; the group's offsets follow it
Time        a failure is late as in the other engine; one that comes out of order within the
            delay counts as ``streams.bursts`` says, and never makes an answer wait
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from footfall.flows._alerts import AlertLetters
from footfall.flows._alerts_faust import (
    SESSION_S,
    FaustTable,
    NotRestoredError,
    changelog_of,
    group_of,
    instance_of,
)
from footfall.flows._alerts_place import Place
from footfall.flows._alerts_topics import (
    Others,
    check_changelog,
    check_same,
    ends_of,
    make_changelog,
)
from footfall.flows._alerts_watch import Taken, Watch, partition_of
from footfall.schemas.metrics import BATCH_SECONDS, WRITE_SECONDS
from footfall.schemas.settings import Settings
from footfall.schemas.status import PartitionStatus
from footfall.schemas.times import iso_ms
from footfall.schemas.topics import LOGIN_ALERTS, PLATFORM_LOGS
from footfall.streams.batch import Poll
from footfall.streams.bursts import in_burst
from footfall.streams.kafka import KafkaTopic
from footfall.streams.log_lines import log_begin
from footfall.streams.open import open_topic, sent_again_in
from footfall.streams.process import stopped_by_signals, tune_process
from footfall.streams.progress import Counted, Progress, StateSize
from footfall.streams.reporting import reporting
from footfall.streams.run import Run, WorkerError
from footfall.streams.source import SourceError, wall_clock_ms
from footfall.streams.wire_format import lines_of

LOOK_EVERY_S = 5.0
"""Seconds between checks whether the topic has more partitions."""
TRIES = 3
"""Attempts to restore the table before the process ends."""
LOG_BYTES_MAX = 2_000_000
_LOGGERS = ("faust", "mode", "aiokafka", "aiohttp")

Offsets = dict[tuple[str, int], int]
SentAgain = Callable[[], Mapping[int, Collection[int]]]


def run_on_kafka(flow: str, settings: Settings, run: Run) -> None:
    """Run the worker until it is stopped or, with ``run.once``, has read all there is now.

    Raises WorkerError, SourceError and SinkError with what is wrong and what to do.
    """
    name = settings.kafka_topic or PLATFORM_LOGS.name
    topic = open_topic(settings, name, group=flow, flow=flow)
    assert isinstance(topic, KafkaTopic)
    ends = ends_of(topic)
    make_changelog(topic.bootstrap, changelog_of(settings, flow), len(ends))
    check_changelog(topic, changelog_of(settings, flow))
    tune_process()
    own = OwnProgress()
    with (
        _logging_to(settings.footfall_home / "logs" / f"{flow}.{run.share.index}.faust.log"),
        stopped_by_signals(run.stop, flow),
        reporting(flow, settings.footfall_home, replace(run, progress=own)),
    ):
        for tries_left in reversed(range(TRIES)):
            worker = AlertsWorker(flow, settings, run, topic=topic, ends=ends, progress=own)
            try:
                asyncio.run(worker.work())
                break
            except NotRestoredError as error:
                if not tries_left:
                    raise
                run.say(f"{error}: begins anew")


class OwnProgress(Progress):
    """The progress of only those partitions that this worker has now."""

    def __init__(self) -> None:
        super().__init__()
        self.partitions: Collection[int] = ()

    def read(self) -> tuple[list[PartitionStatus], int]:
        """Return (our partitions in order, rows written by this process)."""
        found, rows_written = super().read()
        return [one for one in found if one.partition in self.partitions], rows_written


class AlertsWorker:
    """A worker that gives records to the watches of its partitions, and writes the results to
    Kafka."""

    def __init__(
        self,
        flow: str,
        settings: Settings,
        run: Run,
        *,
        topic: KafkaTopic,
        ends: Sequence[int],
        progress: OwnProgress,
    ) -> None:
        """Take ``ends``, the next offset of each partition, to which ``run.once`` reads."""
        self._flow = flow
        self._run = run
        self._topic = topic
        self._ends = ends
        self._progress = progress
        self._sent_again: SentAgain = sent_again_in(settings, topic.name)
        self._letters = AlertLetters(settings)
        self._changelog = changelog_of(settings, flow)
        group = group_of(settings, flow)
        ours = [instance_of(group, worker) for worker in range(run.share.count)]
        self._others = Others(topic.bootstrap, group, ours, wait_s=3 * SESSION_S)
        self._watches: dict[int, Watch] | None = None
        """Watches by partition; None while the group assigns partitions."""
        self._is_placed = False
        self._places: dict[int, Place] = {}
        self._faust = FaustTable(
            flow,
            topic.name,
            len(ends),
            settings,
            worker=run.share.index,
            partition_of=partition_of,
            show=self._show,
        )
        self._faust.on_change(self._assigned, self._revoked)

    async def work(self) -> None:
        """Work until stopped or, with ``once``, until the end."""
        growth = asyncio.ensure_future(self._look_for_growth())
        try:
            await self._faust.start(self._run.stop.is_set)
            while not self._run.stop.is_set():
                self._faust.check()
                if growth.done():
                    growth.result()
                if await self._take_some():
                    return
        except KafkaError as error:
            raise WorkerError(
                f"Kafka at {self._topic.bootstrap} does not answer: {error}; what was not written "
                "is read again at the next start"
            ) from error
        finally:
            growth.cancel()
            await self._faust.stop()
            self._letters.close()

    async def _take_some(self) -> bool:
        """Take what has come; return True where ``once`` is done."""
        if self._watches is None or not self._faust.is_settled:
            await asyncio.sleep(0.1)
            return False
        async with self._faust.busy:
            if self._watches is None:
                return False
            if not self._is_placed:
                await self._find_places(self._watches.values())
            records = await self._faust.take()
            if records:
                await self._take(records)
            await self._ask_again()
            if not (self._run.once and self._is_done()):
                return False
            # No partition is given away meanwhile: a rebalance waits until we are not busy.
            return await asyncio.to_thread(self._others.are_gone)

    async def _take(self, records: Sequence[Any]) -> None:
        by_partition: dict[int, list[Any]] = defaultdict(list)
        for record in records:
            by_partition[record.message.partition].append(record.message)
        taken: list[tuple[Watch, Taken, Counted]] = []
        for partition, messages in by_partition.items():
            place = self._places.get(partition)
            poll = await self._poll(place, messages) if place is not None else None
            if poll is not None and self._watches is not None:
                taken.append(self._take_poll(self._watches[partition], poll))
        began_s = time.perf_counter()
        # In this order a worker that is killed between any two of these loses nothing.
        alerts = [alert for _, one, _ in taken for alert in one.alerts]
        dead = [letter for _, one, _ in taken for letter in one.dead]
        late = [event for _, one, _ in taken for event in one.late]
        if alerts or dead or late:
            await asyncio.to_thread(self._letters.write, alerts, dead, late)
        await self._faust.write((w.partition, row) for w, one, _ in taken for row in one.users)
        await self._faust.write((w.partition, one.partition_row) for w, one, _ in taken)
        await self._faust.acknowledge(
            [one for one in records if self._is_taken(one.message.partition, one.message.offset)]
        )
        self._progress.wrote(LOGIN_ALERTS.name, len(alerts))
        self._progress.took(WRITE_SECONDS, "", time.perf_counter() - began_s)
        for watch, _, counted in taken:
            self._tell(watch, self._faust.end_seen(watch.partition), counted)

    def _take_poll(self, watch: Watch, poll: Poll) -> tuple[Watch, Taken, Counted]:
        began_s, was = time.perf_counter(), watch.at
        taken = watch.take(poll)
        self._progress.took(BATCH_SECONDS, poll.topic, time.perf_counter() - began_s)
        at = watch.at
        counted = Counted(
            read=at.read - was.read,
            used=at.used - was.used,
            filtered=at.filtered - was.filtered,
            late=at.late - was.late,
            dead=at.dead - was.dead,
            size_bytes=len(poll.data),
            dead_by_code=Counter(letter.code for letter in taken.dead),
        )
        self._progress.snapshotted(
            (poll.topic, poll.partition), StateSize(None, {"users": len(watch)})
        )
        return watch, taken, counted

    def _is_taken(self, partition: int, offset: int) -> bool:
        place = self._places.get(partition)
        return place is not None and offset < place.next_offset

    async def _poll(self, place: Place, messages: Iterable[Any]) -> Poll | None:
        """Return the messages that come next as a poll; None where there are none."""
        now_s = time.monotonic()
        taken = [one for one in messages if place.take(one.offset, now_s)]
        if not taken:
            return None
        partition = taken[0].partition
        offsets = [one.offset for one in taken]
        data, tombstones = lines_of([one.value for one in taken], self._topic.wire_format)
        sent_again = (await asyncio.to_thread(self._sent_again)).get(partition, ())
        return Poll(
            topic=self._topic.name,
            partition=partition,
            first_offset=offsets[0],
            data=data,
            count=len(taken),
            lag=max(0, self._faust.end_seen(partition) - place.next_offset),
            polled_at_ms=wall_clock_ms(),
            offsets=np.array(offsets, dtype=np.int64),
            sent_again=tuple(row for row, offset in enumerate(offsets) if offset in sent_again),
            appended_ms=np.array([round(one.timestamp * 1000) for one in taken]),
            tombstones=tuple(tombstones),
        )

    async def _find_places(self, watches: Collection[Watch]) -> None:
        """Seek to where the states of the newly assigned partitions say."""
        oldest, ends = await self._faust.bounds()
        await asyncio.to_thread(self._sent_again)
        now_s = time.monotonic()
        begins: tuple[Offsets, Offsets] = ({}, {})
        for watch in watches:
            partition = watch.partition
            next_offset, end = watch.at.next_offset, ends[partition]
            if next_offset > end:
                raise WorkerError(
                    f"{self._topic.name}/{partition}: the next offset {next_offset} is past the "
                    f"topic's end at {end}: it was made anew, or this is another Kafka. To read "
                    f"it from its beginning, stop the workers of {self._flow} and delete the "
                    f"topic {self._changelog}"
                )
            if next_offset < oldest[partition]:
                if not watch.is_new:
                    self._note_removed(partition, next_offset, oldest[partition])
                next_offset = oldest[partition]
            self._places[partition] = Place(next_offset, now_s)
            begins[watch.is_new][self._topic.name, partition] = next_offset
            self._tell(watch, end)
        await self._faust.seek({one: place.next_offset for one, place in self._places.items()})
        log_begin(*begins)
        self._is_placed = True

    async def _ask_again(self) -> None:
        """Have Faust give the records that it left out."""
        now_s = time.monotonic()
        missing = [
            partition
            for partition, place in self._places.items()
            if place.is_missing or place.is_quiet(self._faust.end_seen(partition), now_s)
        ]
        if not missing:
            return
        oldest, _ = await self._faust.bounds()
        for partition in missing:
            place = self._places[partition]
            if place.next_offset < oldest[partition]:
                self._note_removed(partition, place.next_offset, oldest[partition])
                place.next_offset = oldest[partition]
            place.asked()
        await self._faust.seek({one: self._places[one].next_offset for one in missing})

    def _note_removed(self, partition: int, next_offset: int, oldest: int) -> None:
        name = f"{self._topic.name}/{partition}"
        if not self._run.skip_removed:
            raise WorkerError(
                f"{name}: the next offset {next_offset} was removed by retention, the oldest left "
                f"is {oldest}; nothing was skipped. `footfall run {self._flow} --skip-removed` "
                "goes on from there with the state it has, and says what it skipped"
            )
        self._run.say(
            f"{name}: skipped offsets {next_offset} to {oldest - 1}, which retention removed: "
            f"{oldest - next_offset} offsets; goes on at {oldest}"
        )

    def _is_done(self) -> bool:
        """Return whether all our partitions were read to where they ended at the start."""
        now_s = time.monotonic()
        return all(
            place.is_at_end(self._ends[partition], now_s)
            for partition, place in self._places.items()
        )

    async def _look_for_growth(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            count = 0
            # An unreadable topic is reported by the client.
            with suppress(SourceError):
                count = await asyncio.to_thread(self._topic.partitions)
            check_same(self._topic, self._changelog, (self._topic.name, self._topic.topic_id))
            if count > len(self._ends) and not self._run.once:
                raise WorkerError(
                    f"{self._topic.name} has grown from {len(self._ends)} to {count} partitions: "
                    f"start {self._flow} again, and it reads all of them"
                )

    def _assigned(self, rows: Mapping[bytes, bytes], partitions: Iterable[int]) -> None:
        topic_id = self._topic.topic_id
        self._watches = {one: Watch(self._flow, one, rows, topic_id) for one in partitions}
        self._places = {}
        self._is_placed = False
        self._progress.partitions = tuple(self._watches)

    def _revoked(self) -> None:
        self._watches = None

    def _tell(self, watch: Watch, end: int, counted: Counted | None = None) -> None:
        lag = max(0, end - watch.at.next_offset)
        self._progress.update(watch.status(self._topic.name, lag), counted)

    def _show(self, user_id: str) -> tuple[int, Any]:
        """Return the HTTP answer with a user's state in each of our partitions that has some."""
        watches = self._watches
        if watches is None:
            return 503, {"error": "partitions are being assigned: ask again in a moment"}
        found = [(one.partition, one.known(user_id)) for one in watches.values()]
        states = [
            {
                "partition": partition,
                "in_burst": in_burst(known),
                "failures": [iso_ms(at) for at in known],
            }
            for partition, known in found
            if known
        ]
        home = (murmur2(user_id.encode()) & 0x7FFFFFFF) % len(self._ends)
        if not states and home not in watches:
            return 421, {"error": f"another worker reads partition {home}, where this user is"}
        return 200, {"user_id": user_id, "states": states}


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Send the logs of Faust and its clients to a file: the terminal is for what a person
    needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
