"""Wrong clocks cost no right record: the rows are those of the right records alone, plus what
the wrong ones add themselves.

As long as at most 60 of any 256 records of a partition have a wrong clock, and, where append
times are known, right records are appended within the flow's delay of their event time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.schemas.topics import PLATFORM_LOGS, USER_TAGS
from footfall.streams.batch import AGREEING
from footfall.streams.clock import OF_LAST
from footfall.streams.testing import Result, run_flow
from tests.laws.worlds import BASE_MS, DELAY_MS, LAWS, Law, Rows, cuts

WRONG_MAX = AGREEING - 4
RECORDS = OF_LAST + 60
every_flow = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())

SUMMED = {"online_users_per_minute": ("minute",), "events": ("start_event_time",)}
"""The tables whose rows are of all users together, and their key."""


@dataclass(frozen=True)
class Told:
    """A record, and when it was appended."""

    record: bytes
    appended_ms: int
    is_wrong: bool


def of_a_wrong_clock(topic: str, record: bytes) -> bytes:
    """Return the record as one of users, products and servers that no right record knows."""
    fields = msgspec.json.decode(record)
    if topic == PLATFORM_LOGS.name:
        common = {"userId": 99, "requestId": f"wrong {fields['commonData']['requestId']}"}
        fields["commonData"] |= common | {"serverName": "Wrong"}
    elif topic == USER_TAGS.name:
        fields |= {"cookie": "wrong", "origin": "wrong"}
    else:
        fields["user_id"] = 99
    return msgspec.json.encode(fields)


def stream_of(law: Law, chance: Random) -> list[Told]:
    """Draw records in the order in which they are appended, some of them with a wrong clock."""
    drawn = []
    now_ms = BASE_MS
    apart_ms = chance.choice((20, 1_000, 3_000))
    share = chance.choice((0.02, 0.1, 0.2))
    for number in range(RECORDS):
        now_ms += chance.randrange(2 * apart_ms)
        event_ms = now_ms // 1_000 * 1_000
        choice = chance.randrange(60)
        # All at once at the very beginning, or one now and then.
        is_wrong = number < 20 or chance.random() < share
        if is_wrong:
            event_ms += 1_000 * chance.choice((1, 30, 59, 70, 600, 3_000))
        record = law.event(event_ms, choice)
        if is_wrong:
            record = of_a_wrong_clock(law.topic, record)
        # Right records arrive within the delay, in any order.
        held_up_ms = 0 if is_wrong else chance.randrange(DELAY_MS - 1_000)
        drawn.append(Told(record, now_ms + held_up_ms, is_wrong))
    kept: list[Told] = []
    for told in sorted(drawn, key=lambda told: told.appended_ms):
        if told.is_wrong and sum(one.is_wrong for one in kept[1 - OF_LAST :]) >= WRONG_MAX:
            continue
        kept.append(told)
    return kept


def rows_of(law: Law, told: Sequence[Told], sizes: Sequence[int], *, is_live: bool) -> Result:
    return run_flow(
        law.build,
        [one.record for one in told],
        cuts=sizes,
        appended_ms=[one.appended_ms for one in told] if is_live else None,
        agreeing=AGREEING,
    )


def together(*parts: Rows) -> list[Any]:
    """Return the rows of all parts: sums where a table has one row for all users."""
    rows: list[Any] = []
    sums: dict[Any, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in (row for part in parts for row in part):
        kept = {k: v for k, v in row.items() if k not in ("offset", "version", "events")}
        key = next((row[k] for k in ("minute", "start_event_time") if k in row), None)
        is_summed = row.get("table", "").startswith("online_users") or "start_event_time" in row
        if not is_summed:
            rows.append(sorted(kept.items(), key=repr))
            continue
        for name, value in kept.items():
            if type(value) is int and name != "topic_partition":
                sums[key][name] += value
    rows += [(key, dict(found)) for key, found in sums.items() if any(found.values())]
    return sorted(rows, key=repr)


@every_flow
@pytest.mark.parametrize("is_live", [True, False], ids=["live", "history"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), sizes=cuts)
def test_wrong_clocks_cost_no_right_record(
    law: Law, is_live: bool, seed: int, sizes: list[int]
) -> None:
    told = stream_of(law, Random(seed))
    sizes = [20 * size for size in sizes]
    both = rows_of(law, told, sizes, is_live=is_live)
    right, wrong = (
        rows_of(law, [one for one in told if one.is_wrong == is_wrong], [500], is_live=is_live)
        for is_wrong in (False, True)
    )
    assert not both.late and not both.dead
    assert together(law.table(both)) == together(law.table(right), law.table(wrong))
