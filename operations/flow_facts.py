"""The progress of each flow and its workers: pure, statuses and ends of topics in, facts out.

Lag is asked of the topics' ends and never of a worker: one that was killed is not "lag 0".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from footfall.operations.positions import Positions, of_statuses
from footfall.schemas.status import WorkerStatus

STALE_MS = 15_000
"""A worker tells of itself each second."""
STALE_WITHOUT_PROCESS_MS = 3_000
"""Its process may run where ids are counted apart, as in a container."""
STUCK_S = 30.0
"""Seconds that a record may wait for a worker which runs and reads nothing: more than a start
takes."""

Ends = Mapping[str, Mapping[int, tuple[int, int]]]
"""By topic and partition: the oldest offset that is left, and the next one."""
AppendedMs = Callable[[str, int, int], int | None]
"""(topic, partition, offset) -> when that record was appended; None where nobody knows."""
State = Literal["running", "degraded", "stopped", "finished", "elsewhere"]


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The progress of a flow in one partition."""

    topic: str
    partition: int
    next_offset: int
    low: int
    high: int
    age_s: float | None = None
    """Age of the oldest record that was not read; 0 if there is no such record, None if it is not
    known."""

    @property
    def lag(self) -> int:
        """Return the number of records not read yet, without those that were removed."""
        return max(0, self.high - max(self.next_offset, self.low))

    @property
    def lost(self) -> int:
        """Return the number of records that were removed before they were read."""
        return max(0, self.low - self.next_offset)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """The last status of a worker."""

    worker: int
    pid: int
    age_ms: int
    finished: bool
    alive: bool
    """True if a process with its id runs here."""
    started_ms: int = 0

    @property
    def is_stale(self) -> bool:
        """Tell whether its next status is overdue."""
        return self.age_ms > (STALE_MS if self.alive else STALE_WITHOUT_PROCESS_MS)

    @property
    def is_running(self) -> bool:
        """Tell whether it runs and reports."""
        return not self.finished and not self.is_stale


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """The workers of a flow on this home, and its progress."""

    name: str
    workers: Sequence[WorkerFacts]
    places: Sequence[PlaceFacts]
    takes_archive: bool = True
    """True if its rows can be written again from an archive; asked where records are lost."""
    rows_per_s: float = 0.0
    watermark_ms: int | None = None
    """Lowest watermark of the partitions that have one."""
    error: str = ""
    """Reason why a worker last failed; "" if one has run since."""
    is_stuck: bool = False
    """True if its workers run and read nothing, and a record has waited for STUCK_S."""

    @property
    def lost(self) -> list[PlaceFacts]:
        """Return the partitions whose records were removed before they were read."""
        return [place for place in self.places if place.lost]

    @property
    def lag(self) -> int:
        """Return the number of records not read yet."""
        return sum(place.lag for place in self.places)

    @property
    def age_s(self) -> float | None:
        """Return the age of the oldest record that was not read; None if it is not known."""
        known = [place.age_s for place in self.places if place.age_s is not None]
        return max(known) if known else None

    @property
    def running(self) -> int:
        """Return the number of workers that run."""
        return sum(one.is_running for one in self.workers)

    @property
    def wanted(self) -> int:
        """Return the number of workers that should run: those that did not end by themselves."""
        return sum(not one.finished for one in self.workers)

    @property
    def state(self) -> State:
        """Return whether its workers run, as far as this home knows of them."""
        if not self.workers:
            return "elsewhere"
        if not self.wanted:
            return "finished"
        if not self.running:
            return "stopped"
        return "running" if self.running == self.wanted else "degraded"

    @property
    def trouble(self) -> str:
        """Return the flow's trouble in a few words; "" if it has none."""
        if self.error:
            return "failed"
        if self.lost:
            return "lost records"
        if self.state == "degraded":
            return "a worker is missing"
        if self.lag and self.state in ("stopped", "finished"):
            return "behind, without a worker"
        return "behind, and does not read" if self.is_stuck else ""


def flows_now(
    statuses: Collection[WorkerStatus],
    groups: Positions,
    ends: Ends,
    reads: Mapping[str, Collection[str]],
    now_ms: int,
    *,
    is_alive: Callable[[int], bool],
    appended_ms: AppendedMs = lambda _topic, _partition, _offset: None,
) -> list[FlowFacts]:
    """Return the facts of every flow that ever ran, by name.

    ``groups``: what consumer groups have committed; ``reads``: the topics of each flow.
    """
    names = sorted({*groups, *(status.flow for status in statuses)})
    return [
        flow_now(
            name,
            [status for status in statuses if status.flow == name],
            ends,
            groups.get(name, {}),
            now_ms,
            reads=reads.get(name, ()),
            is_alive=is_alive,
            appended_ms=appended_ms,
        )
        for name in names
    ]


def flow_now(
    name: str,
    statuses: Sequence[WorkerStatus],
    ends: Ends,
    group: Mapping[tuple[str, int], int],
    now_ms: int,
    *,
    reads: Collection[str] = (),
    is_alive: Callable[[int], bool],
    appended_ms: AppendedMs = lambda _topic, _partition, _offset: None,
) -> FlowFacts:
    """Return the facts of one flow; where a topic cannot be asked its workers' own lag counts."""
    newest = max(statuses, key=lambda status: status.updated_ms, default=None)
    # A worker number past the newest's count is a file of an earlier number of processes.
    of_now = [one for one in statuses if newest is not None and one.worker < newest.workers]
    workers = [
        WorkerFacts(
            worker=one.worker,
            pid=one.pid,
            age_ms=max(0, now_ms - one.updated_ms),
            finished=one.finished,
            alive=is_alive(one.pid),
            started_ms=one.started_ms,
        )
        for one in of_now
    ]
    running = [one for one, facts in zip(of_now, workers, strict=True) if facts.is_running]
    places = [
        _aged(place, now_ms, appended_ms) for place in _places(name, statuses, ends, group, reads)
    ]
    marks = [
        part.watermark_ms for one in of_now for part in one.partitions if part.watermark_ms >= 0
    ]
    oldest_s = max((place.age_s or 0.0 for place in places), default=0.0)
    waited_s = min([oldest_s, *((now_ms - one.started_ms) / 1000 for one in running)])
    failed = [one for one in of_now if one.error_ms > one.started_ms and one not in running]
    return FlowFacts(
        name,
        workers,
        places,
        rows_per_s=round(sum((one.rows_per_s for one in running), 0.0), 1),
        watermark_ms=min(marks, default=None),
        error=max(failed, key=lambda one: one.error_ms).error if failed else "",
        is_stuck=bool(running)
        and not any(one.read_per_s for one in running)
        and waited_s >= STUCK_S,
    )


def _places(
    name: str,
    statuses: Sequence[WorkerStatus],
    ends: Ends,
    group: Mapping[tuple[str, int], int],
    reads: Collection[str],
) -> list[PlaceFacts]:
    told = {
        (part.topic, part.partition): (0, part.next_offset + part.lag)
        for one in statuses
        for part in one.partitions
    }
    known = {**of_statuses(statuses).get(name, {})}
    for key, offset in group.items():
        known[key] = max(known.get(key, 0), offset)
    if known or statuses:
        # Nothing was read of a partition that is not named: all that it has is waiting.
        topics = {topic for topic, _ in known} or {*reads}
        for topic in topics & ends.keys():
            for partition, (low, _) in ends[topic].items():
                known.setdefault((topic, partition), low)
    places = []
    for (topic, partition), next_offset in sorted(known.items()):
        standing = ends.get(topic)
        if standing is None:
            low, high = told.get((topic, partition), (0, next_offset))
        else:
            low, high = standing.get(partition, (0, 0))
        places.append(PlaceFacts(topic, partition, next_offset, low, high))
    return places


def _aged(place: PlaceFacts, now_ms: int, appended_ms: AppendedMs) -> PlaceFacts:
    if not place.lag:
        return replace(place, age_s=0.0)
    oldest = max(place.next_offset, place.low)
    appended = appended_ms(place.topic, place.partition, oldest)
    if appended is None:
        return place
    return replace(place, age_s=max(0, now_ms - appended) / 1000)


def is_alive(pid: int) -> bool:
    """Tell whether a process with this id runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid > 0
