"""What is one request: its steps in order, and what follows from them. Pure; knows no state.

A request is the steps of one request id that are on time, in order of time (of two at the same
moment, of server and action). What follows under the same id is another request where more than
GAP_MS lie between, SPAN_MAX_MS after the first step, and after STEPS_MAX steps: an id that is
used again, even in every record, does no harm. All of this is said of the steps alone: neither
how a stream is cut into batches nor any order within the delay matters.
"""

from __future__ import annotations

from dataclasses import dataclass
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
FORM_STEPS_MAX = 64
"""Longer requests are rarely alike: how they turned out is not kept."""
_SHORT_STEPS = 8

Bools = npt.NDArray[np.bool_]


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


def form_of(steps: list[Step]) -> Form:
    """The form of a request with these steps, in order of time."""
    operation = operation_of(steps)
    counts = {step: steps.count(step) for step in set(steps)}
    missing = missing_step(operation, counts)
    known = OPERATIONS.get(operation)
    return Form(
        operation,
        ".".join(missing or ()),
        tuple(server for server, _ in groupby(server for server, _ in steps)),
        known is not None and known.last in counts,
        steps[0] in BY_FIRST_STEP or all(operation_of([step]) == operation for step in counts),
    )


@dataclass(frozen=True, slots=True)
class Lives:
    """Requests with all of their steps."""

    steps: pl.DataFrame
    """As they came."""
    order: Int64s
    """Rows of ``steps``: by request, and of each in order."""
    starts: Int64s
    ends: Int64s
    """Where in ``order`` each request begins and has ended."""
    times: Int64s
    failed: Bools
    servers: Int64s
    """Of each step in ``order``, as a place in ``server_names``."""
    server_names: list[str]
    forms: list[Form]
    form_places: Int64s
    """Of each request, its place in ``forms``."""
    is_newest: Bools
    """No request is newer of those here that have the same id."""

    @property
    def last_ms(self) -> Int64s:
        """The last step of each request."""
        return self.times[self.ends - 1]

    def kept(self, passed_ms: int) -> pl.DataFrame:
        """The steps of the requests whose last one is not before ``passed_ms``."""
        is_kept = self.last_ms >= passed_ms
        if is_kept.all():
            return self.steps
        is_step_kept = np.empty(len(self.steps), dtype=np.bool_)
        is_step_kept[self.order] = np.repeat(is_kept, self.ends - self.starts)
        return self.steps.filter(pl.Series(is_step_kept))


class Forms:
    """The forms of many requests, worked out once for all that are alike. Bounded."""

    def __init__(self) -> None:
        self._codes: dict[Step, int] = {}
        self._known: dict[bytes, Form] = {}

    def lives(self, steps: pl.DataFrame) -> Lives:
        """The requests that some steps make. There must be one step at least."""
        pairs, ranks, server_of_pair, server_names = _pairs(steps)
        times = steps[TIME_MS].to_numpy()
        order, is_first = _ordered(steps, times, ranks)
        times, ranks = times[order], ranks[order]
        starts, is_newest = _starts(times, is_first)
        ends = np.append(starts[1:], len(order))
        forms, places = self._forms(pairs, ranks, starts, ends)
        return Lives(
            steps, order, starts, ends, times, steps["failed"].to_numpy()[order],
            server_of_pair[ranks], server_names, forms, places, is_newest,
        )  # fmt: skip

    def _forms(
        self, pairs: list[Step], ranks: Int64s, starts: Int64s, ends: Int64s
    ) -> tuple[list[Form], Int64s]:
        if len(self._known) > FORMS_MAX or len(self._codes) > FORMS_MAX:
            self._known.clear()
            self._codes.clear()
        codes = self._codes
        # From 1: fewer steps are then no steps of code 0.
        coded = [codes.setdefault(pair, len(codes) + 1) for pair in pairs]
        marks = np.array(coded, dtype=np.uint32)[ranks]
        places = np.empty(len(starts), dtype=np.int64)
        index: dict[bytes, int] = {}
        is_short = ends - starts <= _SHORT_STEPS
        if max(coded) < 256 and is_short.any():
            # Most requests: their marks fit a number each, and numbers are told apart at once.
            counts = ends - starts
            place = np.arange(len(marks)) - np.repeat(starts, counts)
            shift = (8 * np.minimum(place, _SHORT_STEPS)).astype(np.uint64)
            numbers = np.bitwise_or.reduceat(marks.astype(np.uint64) << shift, starts)
            _, first, which = np.unique(numbers[is_short], return_index=True, return_inverse=True)
            shorts = np.flatnonzero(is_short)
            places[shorts] = which
            for life in shorts[first].tolist():
                index[marks[starts[life] : ends[life]].tobytes()] = len(index)
        else:
            is_short[:] = False
        for life in np.flatnonzero(~is_short).tolist():
            mark = marks[starts[life] : ends[life]].tobytes()
            places[life] = index.setdefault(mark, len(index))
        steps_of = {code: pair for pair, code in codes.items()}
        return [self._form(mark, steps_of) for mark in index], places

    def _form(self, marks: bytes, steps_of: dict[int, Step]) -> Form:
        form = self._known.get(marks)
        if form is None:
            form = form_of([steps_of[code] for code in np.frombuffer(marks, np.uint32).tolist()])
            if len(marks) <= 4 * FORM_STEPS_MAX:
                self._known[marks] = form
        return form


def _pairs(steps: pl.DataFrame) -> tuple[list[Step], Int64s, Int64s, list[str]]:
    """(the (server, action) pairs in order of text, the place there of each step's, of each pair
    its server's place, the servers in order of text)."""
    servers, server_of = _texts(steps["server"])
    actions, action_of = _texts(steps["log"])
    both = server_of * len(actions) + action_of
    if len(servers) * len(actions) <= len(both):
        is_used = np.zeros(len(servers) * len(actions), dtype=np.bool_)
        is_used[both] = True
        used = np.flatnonzero(is_used)
        ranks = (np.cumsum(is_used) - 1)[both]
    else:
        used, ranks = np.unique(both, return_inverse=True)
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
    in_order = sorted(range(len(found)), key=found.__getitem__)
    place = np.empty(len(found), dtype=np.int64)
    place[in_order] = np.arange(len(found))
    return [found[code] for code in in_order], place[coded.to_physical().to_numpy()]


def _ordered(steps: pl.DataFrame, times: Int64s, ranks: Int64s) -> tuple[Int64s, Bools]:
    """The rows by id, time and rank, and of each whether it is the first of its id."""
    ids = steps["request_id"]
    # Numbers sort several times as fast as texts do.
    hashes = ids.hash().to_numpy()
    order = np.lexsort((times, hashes))
    sorted_hashes, sorted_times = hashes[order], times[order]
    is_same = sorted_hashes[1:] == sorted_hashes[:-1]
    has_ties = bool((is_same & (sorted_times[1:] == sorted_times[:-1])).any())
    sorted_ids = ids[order]
    is_other = (sorted_ids[1:] != sorted_ids[:-1]).to_numpy()
    if has_ties or (is_other & is_same).any():
        own = [name for name in ("user_id",) if name in steps.columns]
        by = ["request_id", TIME_MS, "rank", *own]
        keys = steps.select("request_id", TIME_MS, *own).with_columns(
            pl.Series("rank", ranks), pl.int_range(pl.len()).alias("row")
        )
        order = keys.sort(by)["row"].to_numpy()
        sorted_ids = ids[order]
        is_other = (sorted_ids[1:] != sorted_ids[:-1]).to_numpy()
    return order, np.append(True, is_other)


def _starts(times: Int64s, is_first: Bools) -> tuple[Int64s, Bools]:
    """Where requests begin, and of each whether the next is of another id."""
    is_start = is_first.copy()
    is_start[1:] |= np.diff(times) > GAP_MS
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
    return starts, np.append(is_first[starts[1:]], True)
