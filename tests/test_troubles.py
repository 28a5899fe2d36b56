"""Troubles of flows and sources that were sent, as sentences: facts in, words out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from footfall.operations.flow_facts import FlowFacts, PlaceFacts, WorkerFacts
from footfall.operations.sent import Sent, read_sent
from footfall.operations.troubles import (
    AGAIN_S,
    STARTS_WITHIN_S,
    STILL_S,
    Movement,
    records_waiting,
    sentences,
    trouble_of,
)

NOW_MS = 1_000_000


def worker(*, is_running: bool = True, finished: bool = False, number: int = 0) -> WorkerFacts:
    return WorkerFacts(number, 1, 0 if is_running else 60_000, finished, is_running, started_ms=1)


def flow(*places: PlaceFacts, name: str = "f", **more: Any) -> FlowFacts:
    return FlowFacts(name, more.pop("workers", [worker()]), places, **more)


def place(next_offset: int, high: int = 100, age_s: float | None = 9.0, **more: Any) -> PlaceFacts:
    return PlaceFacts(
        more.get("topic", "t"), more.get("partition", 0), next_offset, 0, high, age_s
    )


def told(*flows: FlowFacts) -> list[str]:
    return sentences(flows, Movement(), NOW_MS)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (flow(place(100)), ""),
        (flow(place(100), workers=[worker(is_running=False)]), "has no worker"),
        (
            flow(workers=[worker(), worker(is_running=False, number=1)]),
            "has 1 of 2 workers",
        ),
        (flow(place(100), workers=[worker(finished=True)]), ""),
        (flow(place(90), workers=[worker(finished=True)]), "is behind, without a worker"),
        (flow(place(90), workers=[worker(finished=True)], error="no room"), "failed"),
        (
            flow(PlaceFacts("t", 0, 5, 8, 9)),
            "lost records that were removed before they were read",
        ),
        (flow(place(90)), ""),
    ],
)
def test_what_is_wrong_with_a_flow(found: FlowFacts, expected: str) -> None:
    assert trouble_of(found, Movement(), NOW_MS) == expected


def test_a_flow_without_a_worker_tells_how_many_records_wait_and_why_it_ended() -> None:
    gone = flow(place(90, age_s=61.4), workers=[worker(is_running=False)], error="disk full")
    assert told(gone) == ["f has no worker: 10 records wait, the oldest for 61 s. disk full"]
    assert told(flow(place(99), workers=[worker(is_running=False)])) == [
        "f has no worker: 1 record waits, the oldest for 9 s"
    ]


def test_flows_with_the_same_trouble_share_a_sentence_and_a_record_counts_once() -> None:
    gone = [
        flow(place(90 + number), name=f"f{number}", workers=[worker(is_running=False)])
        for number in range(5)
    ]
    failed = flow(workers=[worker(finished=True)], name="g", error="why")
    assert told(failed, *gone) == [
        "f0, f1, f2 and 2 more have no worker: 10 records wait, the oldest for 9 s",
        "g failed. why",
    ]


def test_records_that_several_flows_have_not_read_are_counted_once() -> None:
    one = flow(place(90), place(50, partition=1))
    other = flow(place(95), place(20, partition=1), place(0, 7, topic="u"))
    assert records_waiting([one, other]) == 10 + 80 + 7


def still(*looks: tuple[int, FlowFacts]) -> str:
    """Return what is told at the last of looks at (seconds, flow)."""
    movement = Movement()
    begin_ms = round(STARTS_WITHIN_S * 1000) + 1
    for second, found in looks:
        now_ms = begin_ms + second * 1000
        movement.observe([found], now_ms)
    return trouble_of(found, movement, now_ms)


def test_a_flow_that_is_behind_and_reads_nothing_is_told_within_seconds() -> None:
    last_s = round(STILL_S)
    stuck = [(second, flow(place(90))) for second in range(last_s + 1)]
    assert still(*stuck[:-1]) == ""
    assert still(*stuck) == "is behind and does not move"
    # One partition of several is enough.
    half = [
        (second, flow(place(90), place(10 + second, partition=1))) for second in range(last_s + 1)
    ]
    assert still(*half) == "is behind and does not move"


def test_a_flow_that_moves_or_has_nothing_to_read_is_no_trouble() -> None:
    seconds = range(30)
    assert still(*((second, flow(place(second))) for second in seconds)) == ""
    assert still(*((second, flow(place(100))) for second in seconds)) == ""
    # Records come now and then, and are read at once.
    assert still(*((second, flow(place(90, age_s=0.4))) for second in seconds)) == ""
    # The end of a transaction is no record: nobody appended it.
    assert still(*((second, flow(place(99, age_s=None))) for second in seconds)) == ""


def test_what_has_just_begun_to_be_behind_is_not_still_since_it_was_idle() -> None:
    idle = [(second, flow(place(90, high=90))) for second in range(30)]
    assert still(*idle, (30, flow(place(90, age_s=5.0)))) == ""


def test_a_worker_that_was_killed_and_is_back_at_once_is_told_for_a_while() -> None:
    def ran(pid: int, *, is_running: bool = True) -> FlowFacts:
        age_ms = 0 if is_running else 60_000
        return flow(place(100), workers=[WorkerFacts(0, pid, age_ms, False, is_running)])

    last_s = round(AGAIN_S)
    again = "was without a worker for a moment"
    assert still((0, ran(1)), (2, ran(2))) == again
    assert still((0, ran(1)), (2, ran(2)), (1 + last_s, ran(2))) == again
    assert still((0, ran(1)), (2, ran(2)), (2 + last_s, ran(2))) == ""
    assert still((0, ran(1)), (4, ran(1, is_running=False)), (9, ran(2))) == again
    # What ran before the first look is no news.
    assert still((0, ran(1, is_running=False)), (2, ran(2))) == ""


def test_a_worker_that_starts_may_load_its_state_first() -> None:
    starting = WorkerFacts(0, 1, 0, False, True, started_ms=round(STARTS_WITHIN_S * 1000))
    found = flow(place(90), workers=[starting])
    assert still(*((second, found) for second in range(10))) == ""


def test_what_was_sent_tells_a_file_from_a_simulated_world(tmp_path: Path) -> None:
    folder = tmp_path / "generator"
    folder.mkdir()
    written = {
        "2019-Oct.csv": {"identity": "file 2019-Oct.csv", "rows": 9, "end_offsets": {"b": [1]}},
        "shop-0": {"identity": "shop seed 0", "rows": 5, "end_offsets": {"c": [1], "a": [2]}},
        "other": {"no": "progress"},
    }
    for name, fields in written.items():
        (folder / f"{name}.json").write_text(json.dumps({"target": "x", **fields}))
    assert read_sent(tmp_path) == [
        Sent("2019-Oct.csv", False, 9, ["b"]),
        Sent("shop-0", True, 5, ["a", "c"]),
    ]
    assert read_sent(tmp_path / "nowhere") == []
