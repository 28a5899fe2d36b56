"""The newest event time that the records of a partition agree on: no single clock is believed.

Event times come from the clocks of phones and servers, and some of these are wrong. A record
counts in the window of its own event time in any case; how far it moves the watermark is
decided here, by the records alone: cuts, restarts and replays change nothing.

- A record that says when it was appended moves event time to that moment at most.
- Where AGREEING of the last OF_LAST records were appended within FRESH_MS of their event time,
  the stream is live: append times keep wrong clocks in check, and each record counts at once.
- Elsewhere (a history that is replayed, records without append times) the newest time that
  AGREEING of the last OF_LAST records have reached counts; it is looked up once per AGREEING
  offsets.

So wrong clocks move nothing as long as fewer than AGREEING of any OF_LAST records have one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from footfall.streams.batch import NEVER, TIME_MS, UNKNOWN_MS, Batch, Bools, Int64s, Seen

OF_LAST = 256
FRESH_MS = 60_000


class Clock:
    """The event time of one partition. Its state is that of the last OF_LAST records."""

    STATE_BYTES = 8 * (3 + 2 * OF_LAST)

    def __init__(self, snapshot: bytes | None = None) -> None:
        state = np.full(3 + 2 * OF_LAST, NEVER)
        if snapshot is not None:
            state = np.frombuffer(snapshot, dtype="<i8", count=len(state))
        self.newest_ms, self.highest_ms, self._stretch = map(int, state[:3])
        self._times, self._lags = np.split(state[3:], 2)
        """Arrays of the last records: the time, limited by the append time, and how much later
        each was appended; NEVER where that is not known."""

    def snapshot(self) -> bytes:
        """Return the state as STATE_BYTES bytes."""
        numbers = [self.newest_ms, self.highest_ms, self._stretch]
        return np.concatenate([numbers, self._times, self._lags]).astype("<i8").tobytes()

    def watermark_ms(self, delay_ms: int) -> int:
        """Return the time before which no event is expected; NEVER while no time is agreed on."""
        return self.newest_ms - delay_ms if self.newest_ms != NEVER else NEVER

    def see(self, batch: Batch) -> Batch:
        """Take the records of a batch; return it with the event time reached."""
        if batch.frame.is_empty():
            seen = Seen(self.newest_ms, self.highest_ms, np.empty(0, dtype=np.int64))
            return replace(batch, seen=seen)
        times, appended = batch.frame[TIME_MS].to_numpy(), batch.appended_ms()
        is_known = appended != UNKNOWN_MS
        times = np.where(is_known, np.minimum(times, appended), times)
        all_times = np.concatenate([self._times, times])
        all_lags = np.concatenate([self._lags, np.where(is_known, appended - times, NEVER)])
        is_live = _is_live(all_lags, batch.poll.agreeing)
        stretches = batch.offsets() // batch.poll.agreeing
        is_look = np.diff(stretches, prepend=self._stretch) != 0
        looks = np.flatnonzero(is_look & ~is_live)
        reached = np.where(is_live, times, NEVER)
        reached[looks] = _agreed(all_times, looks, batch.poll.agreeing)
        reached = np.maximum(np.maximum.accumulate(reached), self.newest_ms)
        self.newest_ms = int(reached[-1])
        self.highest_ms = max(self.highest_ms, int(times.max()))
        self._stretch = int(stretches[-1])
        self._times, self._lags = all_times[-OF_LAST:], all_lags[-OF_LAST:]
        return replace(batch, seen=Seen(self.newest_ms, self.highest_ms, reached))


def _is_live(lags: Int64s, agreeing: int) -> Bools:
    """Return for each record after the first OF_LAST whether enough of the last ones were
    fresh."""
    fresh = np.append(0, np.cumsum((lags != NEVER) & (lags <= FRESH_MS)))
    is_live: Bools = fresh[OF_LAST + 1 :] - fresh[1:-OF_LAST] >= agreeing
    return is_live


def _agreed(times: Int64s, looks: Int64s, agreeing: int) -> Int64s:
    """Return the time that enough of the last records have reached, at each of ``looks``.

    Records are counted from the first OF_LAST on.
    """
    last = np.lib.stride_tricks.sliding_window_view(times, OF_LAST)[looks + 1]
    agreed: Int64s = np.partition(last, OF_LAST - agreeing)[:, OF_LAST - agreeing]
    return agreed
