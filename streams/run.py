"""The settings that a flow is wired with: how far it reads, which partitions, how it is
stopped."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from footfall.streams.progress import Progress
from footfall.streams.source import POLL_EVERY_S, WHOLE, Share, Topic, TopicSource


class WorkerError(Exception):
    """A worker that cannot run; the message says why and what to do."""


def say_on_stderr(line: str) -> None:
    """Print a line for the person who runs the worker."""
    print(line, file=sys.stderr, flush=True)


class Settling(Protocol):
    """A sink whose server may for a moment forget what it has acknowledged."""

    def settle(self) -> None:
        """Return when the server can forget nothing any more. Raises an error of sinks."""

    def release(self) -> None:
        """Release connections. Never raises."""


Failures = Mapping[tuple[str, str], int]
"""Failed attempts to write, by (server, code of schemas.metrics.SINK_CODES)."""
Retries = Mapping[str, int]
"""Repeated attempts, by server."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Address of a worker's metrics."""

    host: str = "127.0.0.1"
    port: int = 0
    """Port of worker 0; worker 1 has the next one, and so on. 0 for any free port."""
    sinks: Callable[[], tuple[Failures, Retries]] = lambda: ({}, {})
    """Function that gives the failures and retries of this process's sinks."""

    def port_of(self, worker: int) -> int:
        """Return the port of one worker."""
        return self.port + worker if self.port else 0


@dataclass(frozen=True, slots=True)
class Run:
    """Settings of a run: how far a flow reads, how it is stopped, what it reports."""

    once: bool = False
    """Read to the end that the topic has at the start, write all as final, and end."""
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)
    share: Share = WHOLE
    """Share of the partitions that this process reads."""
    poll_every_s: float = POLL_EVERY_S
    """Seconds between looks at a partition that has been read to its end."""
    skip_removed: bool = False
    """Go on from the oldest record left where retention removed the next one."""
    monitoring: Monitoring | None = None
    """Address of the metrics; None where they are not served."""
    say: Callable[[str], None] = say_on_stderr
    """Function that takes a line that a person must know of."""
    grown: threading.Event = field(default_factory=threading.Event)
    """Set when a topic has more partitions than are read: the sources end, and the flow is wired
    again."""
    sources: list[TopicSource] = field(default_factory=list)
    """Sources that ``source`` gave since the flow was wired."""
    settling: list[Settling] = field(default_factory=list)
    """Sinks of the flow that are waited for when it has ended."""

    def source(self, topic: Topic) -> TopicSource:
        """Return the topic as the flow's source: this process's share, stopped with the run."""
        source = TopicSource(
            topic,
            self.stop,
            poll_every_s=self.poll_every_s,
            share=self.share,
            grown=self.grown,
        )
        self.sources.append(source)
        return source
