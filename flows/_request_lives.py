"""Group log steps into requests, and derive what follows from their steps. Pure; knows no state.

A request is the steps of one request id that are on time, in order of time (and at the same
moment, of server and action). A step under the same id begins another request if it comes more
than GAP_MS after the one before, more than SPAN_MAX_MS after the first step, or after STEPS_MAX
steps: an id that is used again, even in every record, does no harm. These rules depend on the
steps alone: neither how a stream is cut into batches nor the order within the delay matters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import numpy.typing as npt
import polars as pl

from footfall.schemas.operations import BY_FIRST_STEP, OPERATIONS, Step, missing_step, operation_of
from footfall.streams.batch import TIME_MS, Int64s

GAP_MS = 60_000
SPAN_MAX_MS = 300_000
STEPS_MAX = 1_000

FORMS_MAX = 10_000
FORM_STEPS_MAX = 16
"""Most steps of a request whose form is cached: longer requests are rarely alike."""
_SHORT_STEPS, _SHORT_PAIRS = 7, 255
"""Most steps that fit into one number, and most (server, action) pairs for which they do."""

Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Form:
    """Facts that follow from a request's steps, whoever made it and whenever."""

    operation: str
    missing: str
    """``Server.Action`` of the first missing step, or empty."""
    servers: tuple[str, ...]
    is_over: bool
    """True if the operation's last step is there."""
    is_steady: bool
    """True if any number of its first steps alone gives the same operation."""


def form_of(steps: Sequence[Step]) -> Form:
    """Return the form of a request with these steps, in order of time."""
    operation = operation_of(steps)
    counts = Counter(steps)
    missing = missing_step(operation, counts)
    known = OPERATIONS.get(operation)
    return Form(
        operation,
        ".".join(missing or ()),
        tuple(server for server, _ in groupby(server for server, _ in steps)),
        known is not None and known.last in counts,
        steps[0] in BY_FIRST_STEP or all(operation_of([step]) == operation for step in counts),
    )


_known_form = lru_cache(FORMS_MAX)(form_of)


def hashed(frame: pl.DataFrame) -> Hashes:
    """Return the hash of each step's request id."""
    return frame["request_id"].hash().to_numpy()


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in order of id, time, server and action (and user, where one is known).

    Arrays have one value per step.
    """

    frame: pl.DataFrame
    """Frame whose rows they are."""
    hashes: Hashes
    """Hashes of the ids of all rows of the frame."""
    order: Int64s
    """Row of each step in the frame."""
    ids: Int64s
    """Number of each step's request id: equal for equal ids, and never decreasing."""
    times: Int64s
    failed: Bools
    ranks: Int64s
    """Index of each step's (server, action) in ``pairs``."""
    pairs: list[Step]
    """Pairs of (server, action) in order of text."""
    server_of_pair: Int64s
    """Index of each pair's server in ``server_names``."""
    server_names: list[str]

    @staticmethod
    def of(frame: pl.DataFrame, hashes: Hashes) -> Steps:
        """Return all rows of a frame, at least one, as steps; ``hashes`` are those of their
        ids."""
        pairs, ranks, server_of_pair, server_names = _pairs(frame)
        times = frame[TIME_MS].to_numpy()
        order, ids = _ordered(frame, hashes, times, ranks)
        return Steps(
            frame, hashes, order, ids, times[order], frame["failed"].to_numpy()[order],
            ranks[order], pairs, server_of_pair, server_names,
        )  # fmt: skip

    def only(self, is_taken: Bools) -> Steps:
        """Return the steps where ``is_taken``."""
        return Steps(
            self.frame, self.hashes, self.order[is_taken], self.ids[is_taken],
            self.times[is_taken], self.failed[is_taken], self.ranks[is_taken],
            self.pairs, self.server_of_pair, self.server_names,
        )  # fmt: skip

    @property
    def servers(self) -> Int64s:
        """Return the index of each step's server in ``server_names``."""
        return self.server_of_pair[self.ranks]


@dataclass(frozen=True, slots=True)
class Lives:
    """Requests with all of their steps. Arrays have one value per request."""

    steps: Steps
    starts: Int64s
    ends: Int64s
    """Index in ``steps`` behind each request's last step, as ``starts`` is that of its first."""
    forms: list[Form]
    form_places: Int64s
    """Index of each request's form in ``forms``."""
    is_newest: Bools
    """True where no request here with the same id is newer."""

    @property
    def counts(self) -> Int64s:
        """Return the number of steps of each request."""
        return self.ends - self.starts

    @property
    def last_ms(self) -> Int64s:
        """Return the time of each request's last step."""
        return self.steps.times[self.ends - 1]

    def is_kept(self, passed_ms: int) -> Bools:
        """Return for each step whether its request's last step is not before ``passed_ms``."""
        return np.repeat(self.last_ms >= passed_ms, self.counts)


def lives_of(steps: Steps) -> Lives:
    """Return the requests that some steps make. There must be at least one step."""
    starts, is_newest = _starts(steps)
    ends = np.append(starts[1:], len(steps.times))
    return Lives(steps, starts, ends, *_forms(steps, starts, ends), is_newest)


def _forms(steps: Steps, starts: Int64s, ends: Int64s) -> tuple[list[Form], Int64s]:
    """Return (forms, the index there of each request's form)."""
    pairs, counts = steps.pairs, ends - starts
    found: list[tuple[Step, ...]] = []
    places = np.empty(len(starts), dtype=np.int64)
    is_short = (counts <= _SHORT_STEPS) & (len(pairs) <= _SHORT_PAIRS)
    if is_short.any():
        # Most requests are short, and are told apart all at once.
        place = np.arange(len(steps.ranks)) - np.repeat(starts, counts)
        # Marks begin at 1, so that a missing step differs from one of rank 0.
        marks = (steps.ranks + 1) << 8 * np.minimum(place, _SHORT_STEPS)
        different, places[is_short] = told_apart(np.bitwise_or.reduceat(marks, starts)[is_short])
        for number in different.tolist():
            marked = number.to_bytes(_SHORT_STEPS, "little").rstrip(b"\0")
            found.append(tuple(pairs[mark - 1] for mark in marked))
    index: dict[tuple[Step, ...], int] = {}
    for life in np.flatnonzero(~is_short).tolist():
        ranks = steps.ranks[starts[life] : ends[life]].tolist()
        of_life = tuple(pairs[rank] for rank in ranks)
        if of_life not in index:
            index[of_life] = len(found)
            found.append(of_life)
        places[life] = index[of_life]
    return [*map(_form, found)], places


def _form(steps: tuple[Step, ...]) -> Form:
    return _known_form(steps) if len(steps) <= FORM_STEPS_MAX else form_of(steps)


def _pairs(frame: pl.DataFrame) -> tuple[list[Step], Int64s, Int64s, list[str]]:
    """Return (the (server, action) pairs in order of text, the index there of each row's pair, the
    index of each pair's server, the servers in order of text)."""
    servers, server_of = _texts(frame["server"])
    actions, action_of = _texts(frame["log"])
    both = server_of * len(actions) + action_of
    used, ranks = told_apart(both)
    server_of_pair, action_of_pair = np.divmod(used, len(actions))
    pairs = [
        (servers[server], actions[action])
        for server, action in zip(server_of_pair.tolist(), action_of_pair.tolist(), strict=True)
    ]
    return pairs, ranks, server_of_pair, servers


def _texts(column: pl.Series) -> tuple[list[str], Int64s]:
    """Return (the distinct texts in order, the index there of each row's text)."""
    # Categories of their own are freed with the series: untrusted names cannot fill the memory.
    categories = pl.Categories.random()
    coded = column.cast(pl.Categorical(categories))
    found: list[str] = categories.to_series().to_list()
    codes = sorted(range(len(found)), key=found.__getitem__)
    place = np.empty(len(found), dtype=np.int64)
    place[codes] = np.arange(len(found))
    return [found[code] for code in codes], place[coded.to_physical().to_numpy()]


def _ordered(
    frame: pl.DataFrame, hashes: Hashes, times: Int64s, ranks: Int64s
) -> tuple[Int64s, Int64s]:
    """Return (the rows in order of id, time, rank and user, a number for the id of each)."""
    by_time = np.argsort(times, kind="stable")
    # Numbers sort many times as fast as texts, and sorting them in place is several times as fast
    # as sorting their positions. So each position replaces the low bits of its hash.
    places = np.uint64((1 << len(times).bit_length()) - 1)
    keys = (hashes[by_time] & ~places) | np.arange(len(times), dtype=np.uint64)
    keys.sort()
    order = by_time[(keys & places).astype(np.int64)]
    is_other, is_equal = _compared(frame["request_id"], order), keys[1:] ^ keys[:-1] <= places
    if (is_other & is_equal).any():
        # Different ids have equal hashes.
        order = np.lexsort((times, frame["request_id"].rank("dense").to_numpy()))
        is_other = _compared(frame["request_id"], order)
    ids = np.append(0, np.cumsum(is_other))
    is_tied = ~is_other & (times[order[1:]] == times[order[:-1]])
    if is_tied.any():
        has_ties = np.zeros(ids[-1] + 1, dtype=np.bool_)
        has_ties[ids[1:][is_tied]] = True
        at = np.flatnonzero(has_ties[ids])
        rows = order[at]
        users = frame["user_id"][rows].rank("dense").to_numpy() if "user_id" in frame else rows
        order[at] = rows[np.lexsort((users, ranks[rows], times[rows], ids[at]))]
    return order, ids


def told_apart(values: Int64s) -> tuple[Int64s, Int64s]:
    """Return (the distinct values in order, the index there of each value). There must be at least
    one value."""
    low = values.min()
    span = int(values.max()) - int(low) + 1
    if span > 4 * len(values):
        return np.unique(values, return_inverse=True)
    is_there = np.zeros(span, dtype=np.bool_)
    is_there[values - low] = True
    places = np.cumsum(is_there) - 1
    return np.flatnonzero(is_there) + low, places[values - low]


def in_order(keys: Int64s) -> Int64s:
    """Return the positions of keys below 2**40 in order; equal keys keep their order."""
    bits = len(keys).bit_length()
    packed = keys << bits | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << bits) - 1)


def _compared(ids: pl.Series, order: Int64s) -> Bools:
    """Return for each but the first whether its id differs from the one before it."""
    ordered = ids[order]
    return (ordered[1:] != ordered[:-1]).to_numpy()


def _starts(steps: Steps) -> tuple[Int64s, Bools]:
    """Return (where requests begin, whether the next of each is of another id)."""
    times, ids = steps.times, steps.ids
    is_start = np.append(True, (ids[1:] != ids[:-1]) | (np.diff(times) > GAP_MS))
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], len(times))
    is_long = (ends - starts > STEPS_MAX) | (times[ends - 1] - times[starts] > SPAN_MAX_MS)
    if is_long.any():
        for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
            place = start
            while place < end:
                is_start[place] = True
                spanned = np.searchsorted(times[place:end], times[place] + SPAN_MAX_MS, "right")
                place += min(int(spanned), STEPS_MAX)
        starts = np.flatnonzero(is_start)
    return starts, np.append(ids[starts[1:]] != ids[starts[1:] - 1], True)
