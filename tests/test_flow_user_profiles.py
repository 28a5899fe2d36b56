"""user_profiles: tags in, the newest of every cookie out, as they were sent."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import polars as pl

from footfall.flows import user_profiles
from footfall.schemas.settings import read_settings
from footfall.streams.testing import run_flow
from tests.test_flow_minute_buckets import tag


def rows(*tags: Any, keep: int = 200, cuts: tuple[int, ...] = (1_000,)) -> list[dict[str, Any]]:
    settings = read_settings({"NUM_TAGS_TO_KEEP": str(keep)})
    build = partial(user_profiles.FLOW.dataflow, settings=settings)
    result = run_flow(build, list(tags), cuts=cuts)
    return result.rows.sort("offset").to_dicts() if len(result.rows) else []


def test_a_tag_is_kept_as_the_bytes_that_were_sent() -> None:
    sent = msgspec.json.encode(tag(0)).replace(b'"PL"', b' "P\\u004c" ')
    (row,) = rows(sent)
    assert row["tag"] == sent
    assert (row["cookie"], row["action"]) == ("someone", "VIEW")
    assert (row["topic"], row["topic_partition"], row["offset"]) == ("memory", 0, 0)


def test_a_bad_tag_leaves_the_offsets_of_the_others_alone() -> None:
    found = rows(tag(0), b"nope", tag(1))
    assert [row["offset"] for row in found] == [0, 2]
    assert [msgspec.json.decode(row["tag"])["time"][-5:] for row in found] == [".000Z", ".000Z"]


def test_of_a_batch_only_the_newest_of_each_kind_go_to_the_store() -> None:
    crowd = [tag(second) for second in (5, 1, 4, 2, 3)]
    buys = [tag(second, action="BUY") for second in (9, 8)]
    other = [tag(0, cookie="other")]
    found = rows(*crowd, *buys, *other, keep=2)
    assert [(row["cookie"], row["action"], row["offset"]) for row in found] == [
        ("someone", "VIEW", 0),
        ("someone", "VIEW", 2),
        ("someone", "BUY", 5),
        ("someone", "BUY", 6),
        ("other", "VIEW", 7),
    ]


def test_of_tags_of_one_millisecond_the_later_ones_are_the_newer() -> None:
    assert [row["offset"] for row in rows(tag(1), tag(1), tag(1), keep=2)] == [1, 2]


def test_the_newest_of_a_frame_keeps_its_columns() -> None:
    frame = pl.DataFrame(
        {
            "cookie": ["a"] * 3,
            "action": ["VIEW"] * 3,
            "time_ms": [1, 3, 2],
            "topic_partition": [0] * 3,
            "offset": [0, 1, 2],
            "tag": [b"x", b"y", b"z"],
        }
    )
    kept = user_profiles.newest(frame, 2)
    assert kept.columns == frame.columns
    assert sorted(kept["tag"].to_list()) == [b"y", b"z"]
