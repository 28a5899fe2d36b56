"""What is one request: its steps in order, and what follows from them. Pure; knows no state.

A request is the steps of one request id that are on time, in order of time (of two at the same
moment, of server and action). What follows under the same id is another request where more than
GAP_MS lie between, SPAN_MAX_MS after the first step, and after STEPS_MAX steps: an id that is
used again, even in every record, does no harm. All of this is said of the steps alone: neither
how a stream is cut into batches nor any order within the delay matters.
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

from schemas.operations import BY_FIRST_STEP, OPERATIONS, Step, missing_step, operation_of
from streams.batch import TIME_MS, Int64s

GAP_MS = 60_000
SPAN_MAX_MS = 300_000
STEPS_MAX = 1_000

FORMS_MAX = 10_000
FORM_STEPS_MAX = 16
"""Longer requests are rarely alike: what follows from them is not kept."""
_SHORT_STEPS, _SHORT_PAIRS = 7, 255
"""So many steps fit one number, where there are no more pairs of (server, action)."""

Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Form:
    """What follows from a request's steps, whoever made it and whenever."""

    operation: str
    missing: str
    """``Server.Action`` of the first step that is not there, or empty."""
    servers: tuple[str, ...]
    is_over: bool
    """The operation's last step is there."""
    is_steady: bool
    """Its first steps alone, however many, are of the same operation."""


def form_of(steps: Sequence[Step]) -> Form:
    """The form of a request with these steps, in order of time."""
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
    """The hashes of the ids of some steps."""
    return frame["request_id"].hash().to_numpy()


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps in order: by id, of each by time, server and action (and user, where one is known).

    Arrays have one value a step.
    """

    frame: pl.DataFrame
    """They are rows of it."""
    hashes: Hashes
    """Of the ids of all of its rows."""
    order: Int64s
    """Which row each of them is."""
    ids: Int64s
    """Equal where the request ids are; never less than before."""
    times: Int64s
    failed: Bools
    ranks: Int64s
    """The (server, action), as a place in ``pairs``."""
    pairs: list[Step]
    """In order of text."""
    server_of_pair: Int64s
    """As a place in ``server_names``."""
    server_names: list[str]

    @staticmethod
    def of(frame: pl.DataFrame, hashes: Hashes) -> Steps:
        """All rows of a frame, at least one; ``hashes`` are those of their ids."""
        pairs, ranks, server_of_pair, server_names = _pairs(frame)
        times = frame[TIME_MS].to_numpy()
        order, ids = _ordered(frame, hashes, times, ranks)
        return Steps(
            frame, hashes, order, ids, times[order], frame["failed"].to_numpy()[order],
            ranks[order], pairs, server_of_pair, server_names,
        )  # fmt: skip

    def only(self, is_taken: Bools) -> Steps:
        """Some of them."""
        return Steps(
            self.frame, self.hashes, self.order[is_taken], self.ids[is_taken],
            self.times[is_taken], self.failed[is_taken], self.ranks[is_taken],
            self.pairs, self.server_of_pair, self.server_names,
        )  # fmt: skip

    @property
    def servers(self) -> Int64s:
        """Of each step, as a place in ``server_names``."""
        return self.server_of_pair[self.ranks]


@dataclass(frozen=True, slots=True)
class Lives:
    """Requests with all of their steps. Arrays have one value a request."""

    steps: Steps
    starts: Int64s
    ends: Int64s
    """Where in ``steps`` each request begins and has ended."""
    forms: list[Form]
    form_places: Int64s
    """The place in ``forms``."""
    is_newest: Bools
    """No request is newer of those here that have the same id."""

    @property
    def counts(self) -> Int64s:
        """How many steps each request has."""
        return self.ends - self.starts

    @property
    def last_ms(self) -> Int64s:
        """The last step of each request."""
        return self.steps.times[self.ends - 1]

    def is_kept(self, passed_ms: int) -> Bools:
        """Of each step whether the last one of its request is not before ``passed_ms``."""
        return np.repeat(self.last_ms >= passed_ms, self.counts)


def lives_of(steps: Steps) -> Lives:
    """The requests that some steps make. There must be one step at least."""
    starts, is_newest = _starts(steps)
    ends = np.append(starts[1:], len(steps.times))
    return Lives(steps, starts, ends, *_forms(steps, starts, ends), is_newest)


def _forms(steps: Steps, starts: Int64s, ends: Int64s) -> tuple[list[Form], Int64s]:
    """(forms, the place there of each request's)."""
    pairs, counts = steps.pairs, ends - starts
    found: list[tuple[Step, ...]] = []
    places = np.empty(len(starts), dtype=np.int64)
    is_short = (counts <= _SHORT_STEPS) & (len(pairs) <= _SHORT_PAIRS)
    if is_short.any():
        # Most requests: they are told apart at once.
        place = np.arange(len(steps.ranks)) - np.repeat(starts, counts)
        # From 1: fewer steps are then no steps of rank 0.
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
    """(the (server, action) pairs in order of text, the place there of each row's, of each pair
    its server's place, the servers in order of text)."""
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
    """The different texts in order, and the place there of each row's."""
    # Categories of their own are forgotten with the series: nobody has to trust the names.
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
    """The rows by id, time, rank and user, and a number for the id of each."""
    by_time = np.argsort(times, kind="stable")
    # Numbers sort many times as fast as texts, and in place several times as fast as places do:
    # the low bits of the hashes make room for those.
    places = np.uint64((1 << len(times).bit_length()) - 1)
    keys = (hashes[by_time] & ~places) | np.arange(len(times), dtype=np.uint64)
    keys.sort()
    order = by_time[(keys & places).astype(np.int64)]
    is_other, is_equal = _compared(frame["request_id"], order), keys[1:] ^ keys[:-1] <= places
    if (is_other & is_equal).any():
        # Ids whose hashes are alike.
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
    """The different ones in order, and the place there of each. There must be one at least."""
    low = values.min()
    span = int(values.max()) - int(low) + 1
    if span > 4 * len(values):
        return np.unique(values, return_inverse=True)
    is_there = np.zeros(span, dtype=np.bool_)
    is_there[values - low] = True
    places = np.cumsum(is_there) - 1
    return np.flatnonzero(is_there) + low, places[values - low]


def in_order(keys: Int64s) -> Int64s:
    """The places of keys below 2**40 in order, of equal ones the first before the others."""
    bits = len(keys).bit_length()
    packed = keys << bits | np.arange(len(keys))
    packed.sort()
    return packed & ((1 << bits) - 1)


def _compared(ids: pl.Series, order: Int64s) -> Bools:
    """Of each but the first whether its id is another than the one before it."""
    ordered = ids[order]
    return (ordered[1:] != ordered[:-1]).to_numpy()


def _starts(steps: Steps) -> tuple[Int64s, Bools]:
    """Where requests begin, and of each whether the next is of another id."""
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
