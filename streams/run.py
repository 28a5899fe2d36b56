"""What a flow is wired with: how far it reads, which partitions, how it is stopped."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from streams.progress import Progress
from streams.source import POLL_EVERY_S, WHOLE, Share, Topic, TopicSource


class WorkerError(Exception):
    """The worker cannot run; the message says why and what to do."""


def say_on_stderr(line: str) -> None:
    """Print a line for the person who runs the worker."""
    print(line, file=sys.stderr, flush=True)


class Settling(Protocol):
    """A sink whose server may for a moment forget what it has acknowledged."""

    def settle(self) -> None:
        """Return when the server can forget nothing any more. Raises an error of sinks."""

    def release(self) -> None:
        """Release connections. Never raises."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a flow is wired with: how far it reads, how it is stopped, what it reports."""

    once: bool = False
    """Read to the end of the topic as it stands at the start, write all as final, and end."""
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Progress = field(default_factory=Progress)
    share: Share = WHOLE
    """The partitions that this process reads."""
    poll_every_s: float = POLL_EVERY_S
    """How often a partition that has been read to its end is looked at."""
    skip_removed: bool = False
    """Go on from the oldest record left where retention removed the next one."""
    say: Callable[[str], None] = say_on_stderr
    """Takes a line that a person must know of."""
    grown: threading.Event = field(default_factory=threading.Event)
    """A topic has more partitions than are read: sources end, and the flow is wired anew."""
    sources: list[TopicSource] = field(default_factory=list)
    """What ``source`` gave since the flow was wired."""
    settling: list[Settling] = field(default_factory=list)
    """The flow's sinks that are waited for when it has ended."""

    def source(self, topic: Topic) -> TopicSource:
        """The topic as the flow's source: this process's share of it, stopped with the run."""
        source = TopicSource(
            topic,
            self.stop,
            poll_every_s=self.poll_every_s,
            share=self.share,
            grown=self.grown,
        )
        self.sources.append(source)
        return source
