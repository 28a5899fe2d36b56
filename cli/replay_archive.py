"""``footfall replay --source``: replays a range from an archive.

Rows that cannot be read become dead letters, and windows of which the archive has no event are
taken back only where the range was named or the user agrees.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from footfall.cli.errors import FailureError, confirmed, say
from footfall.cli.ranges import shown
from footfall.schemas.settings import Settings
from footfall.schemas.topics import DEAD_LETTERS

if TYPE_CHECKING:
    from footfall.flows._replay import Replayable
    from footfall.schemas.dead_letters import DeadLetter
    from footfall.sinks.letters import LetterWriter
    from footfall.sinks.replay import ReplayTarget, Span
    from footfall.streams.replay import Replay, Replayed

NAMES_SHOWN = 5


class ArchiveSource:
    """The archive of a replay, and the dead letters of its rows."""

    def __init__(self, args: argparse.Namespace, settings: Settings, part: Replayable) -> None:
        """Open the archive. Raises SourceError where there is nothing to read."""
        from footfall.streams.archive import Archive

        self.archive = Archive(Path(args.source), part.topic, part.records.struct)
        self._args = args
        self._settings = settings
        self._writer: LetterWriter | None = None
        self._example = self._refusal = ""
        left_out = self.archive.left_out
        if left_out:
            more = f" and {len(left_out) - NAMES_SHOWN:,} more" if left_out[NAMES_SHOWN:] else ""
            say(
                f"{args.source}: left out, for what their names end in: "
                f"{', '.join(left_out[:NAMES_SHOWN])}{more}"
            )

    def take_dead(self, letters: list[DeadLetter]) -> None:
        """Write dead letters about rows, by their files and lines."""
        from footfall.sinks.letters import LetterWriter
        from footfall.sinks.open import open_topics

        if self._writer is None:
            self._writer = LetterWriter(open_topics(self._settings), DEAD_LETTERS.name)
        of_rows = [self.archive.letter(letter) for letter in letters]
        self._example = self._example or f"{of_rows[0].topic}: {of_rows[0].reason}"
        self._writer.write(of_rows)

    def close(self) -> None:
        """Release the topics. Never raises."""
        if self._writer is not None:
            self._writer.close()

    def take_back(
        self,
        replay: Replay,
        part: Replayed,
        target: ReplayTarget,
        generation: int,
        label: str,
    ) -> tuple[list[Span], int]:
        """Take back what the archive replaces; return its spans, and the number of removed rows.

        Windows of which it has no event are taken back too where the user has named the range and
        every row could be read; otherwise the user is asked.
        """
        spans = self._spans(replay, part, label)
        shadow = self._args.into == "shadow"
        # A shadow alone takes nothing back from the table: it is there to be looked at first.
        is_certain = self._is_named and not part.dead
        if self._args.yes or is_certain or (shadow and not self._args.swap):
            return spans, target.remove_older(spans, generation, shadow=shadow)
        removed = target.remove_replaced(spans, generation, shadow=shadow)
        others = target.not_replaced(spans, generation, shadow=shadow)
        if others is None:
            return spans, removed
        when = f"at {shown(others.first_ms)}"
        if others.count > 1:
            when = f"from {shown(others.first_ms)} to {shown(others.last_ms)}"
        what = (
            f"{label}: the table has rows of {_counted(others.count, 'window')} {when} of which "
            "the archive has no event"
        )
        remedy = "--from and --to say which range the archive is of"
        if part.dead:
            what += f" ({_counted(part.dead, 'row')} of it could not be read)"
            remedy = "or mend the rows that could not be read, and replay it once more"
        if not sys.stdin.isatty():
            self._refusal = (
                f"{what}: that was left as it is, and all else is written. --yes takes it back "
                f"too; {remedy}"
            )
        elif confirmed(f"{what}. Take that back?"):
            # For a shadow, remove_older counts all rows again.
            before = 0 if shadow else removed
            removed = before + target.remove_older(spans, generation, shadow=shadow)
        return spans, removed

    def report(self, part: Replayed, flow: str) -> None:
        """Say what could not be read. Raises FailureError for what could not be done."""
        if part.dead:
            how = f"{_counted(part.dead, 'row')} could not be read, such as {self._example}"
            if part.dead == part.read:
                raise FailureError(f"{flow}: nothing was written, as {how}")
            say(f"{how} (`footfall dead-letters ls --reason bad_row --records` lists them)")
        if self._refusal:
            raise FailureError(self._refusal)

    @property
    def _is_named(self) -> bool:
        return self._args.from_ms is not None and self._args.to_ms is not None

    def _spans(self, replay: Replay, part: Replayed, label: str) -> list[Span]:
        """Return the spans that the archive covers, for all partitions of the topic.

        An end of the range that was not asked for is that of the archive's events; without events
        there are no spans. What the archive does not reach must not be taken back.
        """
        from footfall.sinks.replay import Span
        from footfall.streams.replay import BEGIN_MS, END_MS

        if part.newest_ms < part.oldest_ms:
            say("the archive has no event of the range: what stands there was left alone")
            return []
        size_ms = replay.rules.size_ms
        from_ms, to_ms = part.windows.from_ms, part.windows.to_ms
        if replay.asked.from_ms == BEGIN_MS:
            from_ms = part.oldest_ms // size_ms * size_ms
        if replay.asked.to_ms == END_MS:
            to_ms = min(to_ms, (part.newest_ms // size_ms + 1) * size_ms)
        if not self._is_named:
            print(
                f"{label}: the archive has events from {shown(part.oldest_ms)} to "
                f"{shown(part.newest_ms)}"
            )
        return [Span(None, from_ms, to_ms)] if from_ms < to_ms else []


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count > 1 else ''}"
