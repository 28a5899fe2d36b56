"""Answers to the page: the whole snapshot first, then patches that make the same of it."""

from __future__ import annotations

import gzip
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from footfall.api.live_answers import KEPT, LiveAnswers
from footfall.api.patches import SHIFT_MAX, patch_of, patched
from footfall.api.snapshot import Counts, Minutes, Rates, Snapshot, Top, Windows

SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(0, 1) | st.text("ab#=~", max_size=2)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text("ab#=~-@>", max_size=2), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(old=VALUES, new=VALUES)
def test_a_patch_makes_the_new_value_of_the_old_one(old: Any, new: Any) -> None:
    made = patched(old, json.loads(json.dumps(patch_of(old, new))))
    assert json.dumps(made, sort_keys=True) == json.dumps(new, sort_keys=True)


@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    more=st.lists(st.integers(0, 3), max_size=SHIFT_MAX),
    is_front=st.booleans(),
)
def test_a_list_that_moves_on_is_patched_alike(
    values: list[int], more: list[int], is_front: bool
) -> None:
    new = (more + values)[: len(values)] if is_front else (values + more)[-len(values) :]
    assert patched(values, patch_of(values, new)) == new


def test_a_list_that_moves_on_is_not_sent_again() -> None:
    old = list(range(1000, 1120))
    assert patch_of(old, [*old[1:], 1120]) == {"#": 120, ">": 1, "@": {"119": 1120}}
    rows = [{"id": number, "text": "x" * 50} for number in range(10)]
    assert patch_of(rows, [{"id": 99}, *rows[:-1]]) == {
        "#": 10,
        ">": -1,
        "@": {"0": {"=": {"id": 99}}},
    }


def snapshot(number: int) -> Snapshot:
    return Snapshot(
        now_ms=number,
        rates=Rates([number], {"t": [float(number)]}),
        flows=[],
        counts=Counts(),
        topics={"t": number},
        sent=[],
        minutes=Minutes(),
        top=Top(),
        windows=Windows(),
        cookies=[f"cookie {one}" for one in range(40)],
        dead_letters=[],
    )


def asked(answers: LiveAnswers, since: str = "", **headers: str) -> tuple[int, Any, str]:
    answer = answers.answer(
        {
            "query_string": f"since={since}".encode() if since else b"",
            "headers": [
                (name.replace("_", "-").encode(), value.encode())
                for name, value in headers.items()
            ],
        }
    )
    found = dict(answer.headers)
    body = answer.body
    if found.get(b"content-encoding") == b"gzip":
        body = gzip.decompress(body)
    return answer.status, json.loads(body) if body else None, found[b"etag"].decode().strip('"')


def test_who_has_seen_a_snapshot_is_sent_what_changed_and_others_the_whole() -> None:
    answers = LiveAnswers()
    answers.keep(snapshot(1))
    code, whole, first = asked(answers)
    assert (code, whole["now_ms"]) == (200, 1)
    assert asked(answers, first) == (304, None, first)
    assert asked(answers, if_none_match=f'"{first}"')[0] == 304
    answers.keep(snapshot(2))
    code, told, second = asked(answers, first)
    assert (code, list(told), second == first) == (200, ["patch"], False)
    assert "cookies" not in told["patch"]["~"]
    assert patched(whole, told["patch"]) == asked(answers)[1]
    # Of another server, or of long ago.
    assert asked(answers, "other-1")[1]["now_ms"] == 2
    for number in range(KEPT):
        answers.keep(snapshot(number))
    assert "patch" not in asked(answers, second)[1]


def test_what_is_large_is_compressed_for_who_takes_it() -> None:
    answers = LiveAnswers()
    answers.keep(snapshot(1))
    plain = answers.answer({"headers": []})
    packed = answers.answer({"headers": [(b"accept-encoding", b"gzip, br")]})
    assert (b"content-encoding", b"gzip") in packed.headers
    assert (b"content-encoding", b"gzip") not in plain.headers
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body)
