"""The promises of every profile store; each implementation runs all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from footfall.schemas.profiles import COLUMNS
from footfall.sinks import SinkRefusedError
from footfall.sinks.profiles import ProfileStore

Tag = tuple[str, str, int, str, int, int, bytes]
"""(cookie, action, time_ms, topic, partition, offset, bytes)."""
OpenStore = Callable[[int], ProfileStore]
"""A new empty store that keeps so many tags of each kind."""

FOREVER = 2**62
KEEP = 5

KINDS = {
    "cookie": pl.String,
    "action": pl.String,
    "time_ms": pl.Int64,
    "topic": pl.String,
    "topic_partition": pl.Int64,
    "offset": pl.Int64,
    "tag": pl.Binary,
}


def frame(tags: list[Tag]) -> pl.DataFrame:
    return pl.DataFrame(tags, schema=KINDS, orient="row")


def tag(
    number: int, *, cookie: str = "c1", action: str = "VIEW", time_ms: int | None = None
) -> Tag:
    """Return a tag of partition 0 whose offset is its number, and its time too unless one is
    given."""
    moment = number if time_ms is None else time_ms
    return cookie, action, moment, "tags", 0, number, b'{"n":%d}' % number


def names(*numbers: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in numbers]


class Model:
    """The promise in its plainest words: all tags kept, the rest at the time of asking."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._tags: dict[tuple[str, str, int, str, int, int], bytes] = {}

    def put(self, tags: list[Tag]) -> None:
        for *identity, sent in tags:
            self._tags[tuple(identity)] = sent  # type: ignore[index]

    def get(
        self, cookie: str, from_ms: int, to_ms: int, limit: int
    ) -> tuple[list[bytes], list[bytes]]:
        def newest(action: str) -> list[bytes]:
            mine = sorted(
                ((identity[2:], sent) for identity, sent in self._tags.items()
                 if identity[:2] == (cookie, action)),
                reverse=True,
            )[: self._keep]  # fmt: skip
            return [sent for order, sent in mine if from_ms <= order[0] < to_ms][:limit]

        return newest("VIEW"), newest("BUY")


few_tags = st.lists(
    st.tuples(
        st.sampled_from(["c1", "c2"]),
        st.sampled_from(["VIEW", "BUY"]),
        st.integers(0, 4),
        st.sampled_from(["t", "tags", "tags.us", "żółć"]),
        st.integers(0, 1),
        st.integers(0, 9),
    ).map(lambda identity: (*identity, repr(identity).encode())),
    max_size=60,
)
ranges = st.tuples(
    st.sampled_from(["c1", "c2"]),
    st.integers(0, 5),
    st.integers(0, 6),
    st.integers(0, KEEP + 1),
)


class ProfileStoreContract:
    """Subclasses give ``open_store``."""

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError

    def test_newest_first_views_and_buys_apart(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(1), tag(3, action="BUY"), tag(4), tag(2), tag(5, action="BUY")]))
        assert store.get("c1", 0, FOREVER, 200) == (names(4, 2, 1), names(5, 3))

    def test_each_kind_is_trimmed_by_itself(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n) for n in range(20)]))
        store.put(frame([tag(n, action="BUY") for n in (0, 7)]))
        store.put(frame([tag(n, action="BUY") for n in range(100, 120)]))
        assert store.get("c1", 0, FOREVER, 200) == (
            names(19, 18, 17, 16, 15),
            names(119, 118, 117, 116, 115),
        )

    def test_a_tag_older_than_those_kept_changes_nothing(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n) for n in range(10, 10 + KEEP)]))
        store.put(frame([tag(3)]))
        assert store.get("c1", 0, FOREVER, 200) == (names(14, 13, 12, 11, 10), [])
        assert store.get("c1", 0, 10, 200) == ([], [])

    def test_an_unknown_cookie_has_two_empty_lists(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        assert store.get("nobody", 0, FOREVER, 200) == ([], [])
        store.put(frame([tag(1)]))
        for cookie in ("nobody", "", "c", "C1", "c1 ", "c\udc00"):
            assert store.get(cookie, 0, FOREVER, 200) == ([], [])

    def test_a_range_takes_its_start_and_not_its_end(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n) for n in (10, 11, 12)]))
        assert store.get("c1", 10, 12, 200) == (names(11, 10), [])
        assert store.get("c1", 11, 13, 200) == (names(12, 11), [])
        assert store.get("c1", 12, 12, 200) == ([], [])
        assert store.get("c1", 13, 10, 200) == ([], [])
        assert store.get("c1", -5, 2**63 - 1, 200) == (names(12, 11, 10), [])
        assert store.get("c1", -5, 2**70, 200) == (names(12, 11, 10), [])

    def test_a_limit_counts_each_kind(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n, action=action) for n in range(4) for action in ("VIEW", "BUY")]))
        assert store.get("c1", 0, FOREVER, 2) == (names(3, 2), names(3, 2))
        assert store.get("c1", 0, 3, 1) == (names(2), names(2))
        assert store.get("c1", 0, FOREVER, 0) == ([], [])

    def test_tags_of_one_millisecond_are_ordered_by_place(self, open_store: OpenStore) -> None:
        places = [
            ("a", 0, 7), ("a", 1, 0), ("a", 0, 300), ("a", 2, 5), ("a", 1, 10**12),
            ("b", 0, 7), ("a-b", 9, 9), ("B", 3, 1),
        ]  # fmt: skip
        store = open_store(len(places))
        store.put(frame([("c1", "VIEW", 5, *place, repr(place).encode()) for place in places]))
        expected = [repr(place).encode() for place in sorted(places, reverse=True)]
        assert store.get("c1", 5, 6, 200) == (expected, [])

    def test_of_one_millisecond_the_last_by_place_are_kept(self, open_store: OpenStore) -> None:
        store = open_store(2)
        for place in [(1, 5), (0, 9), (2, 1), (1, 6), (0, 10)]:
            store.put(frame([("c1", "VIEW", 5, "a", *place, repr(place).encode())]))
        buys: list[Tag] = [
            ("c1", "BUY", 5, "a", 0, 1, b"buy"),
            ("c1", "BUY", 5, "a", 0, 0, b"before"),
        ]
        store.put(frame(buys))
        assert store.get("c1", 5, 6, 200) == ([b"(2, 1)", b"(1, 6)"], [b"buy", b"before"])

    def test_tags_of_two_topics_are_kept_apart(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        for topic in ("eu", "us"):
            tags: list[Tag] = [
                ("c1", "VIEW", n, topic, 0, n, f"{topic} {n}".encode()) for n in range(2)
            ]
            store.put(frame(tags))
            store.put(frame(tags))
        both = [b"us 1", b"eu 1", b"us 0", b"eu 0"]
        assert store.get("c1", 0, FOREVER, 200) == (both, [])

    def test_a_batch_that_comes_back_late_changes_nothing(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        batches = [
            [tag(n, action=action) for n in range(start, start + 4) for action in ("VIEW", "BUY")]
            for start in (0, 4, 8)
        ]
        for batch in (*batches, batches[0], batches[1]):
            store.put(frame(batch))
        assert store.get("c1", 0, FOREVER, 200) == (names(11, 10, 9, 8, 7),) * 2

    def test_a_range_and_a_limit_of_what_is_kept(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(n) for n in range(20)]))
        store.put(frame([tag(n, action="BUY") for n in (0, 2, 16, 17)]))
        assert store.get("c1", 0, 18, 2) == (names(17, 16), names(17, 16))
        assert store.get("c1", 0, 15, 200) == ([], names(2, 0))
        assert store.get("c1", 16, 17, 200) == (names(16), names(16))

    def test_the_same_batch_twice_is_as_once(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        batch = frame([tag(n) for n in (1, 2, 3, 3, 2)])
        store.put(batch)
        store.put(batch)
        assert store.get("c1", 0, FOREVER, 200) == (names(3, 2, 1), [])

    def test_a_tag_that_is_often_in_a_batch_takes_one_place(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(1), tag(2), *[tag(3)] * (2 * KEEP)]))
        assert store.get("c1", 0, FOREVER, 200) == (names(3, 2, 1), [])

    def test_a_thousand_tags_of_one_cookie_in_one_batch(self, open_store: OpenStore) -> None:
        store = open_store(200)
        others = [tag(n, cookie=f"other-{n}") for n in range(100)]
        store.put(frame(others + [tag(n) for n in range(1000)] + [tag(5, action="BUY")]))
        assert store.get("c1", 0, FOREVER, 300) == (names(*range(999, 799, -1)), names(5))
        assert store.get("other-42", 0, FOREVER, 300) == (names(42), [])

    def test_a_thousand_tags_of_one_cookie_in_any_cut(self, open_store: OpenStore) -> None:
        store = open_store(200)
        tags = [tag(n, action=action) for n in range(500) for action in ("VIEW", "BUY")]
        for start in (700, 0, 300, 650, 150, 900):
            store.put(frame(tags[start : start + 350]))
        kept = names(*range(499, 299, -1))
        assert store.get("c1", 0, FOREVER, 300) == (kept, kept)
        assert store.get("c1", 310, 490, 3) == (names(489, 488, 487),) * 2

    @pytest.mark.parametrize(
        "cookie", ["kéks 🍪", "a\0b", "a", "'; DROP TABLE tags; --", "%", "x" * 512, "\n"]
    )
    def test_any_text_is_a_cookie(self, open_store: OpenStore, cookie: str) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(1, cookie="a\0c"), tag(2, cookie=cookie), tag(3, cookie="A")]))
        assert store.get(cookie, 0, FOREVER, 200) == (names(2), [])

    @pytest.mark.parametrize(
        "sent", [b"", b"\0\xff\n", '{"price": 1, "π": "🍪"}'.encode(), b" {} ", b"x" * 100_000]
    )
    def test_a_tag_comes_back_as_it_was_sent(self, open_store: OpenStore, sent: bytes) -> None:
        store = open_store(KEEP)
        store.put(
            frame([("c1", "VIEW", 1, "tags", 0, 0, sent), ("c1", "BUY", 1, "tags", 0, 1, sent)])
        )
        assert store.get("c1", 0, FOREVER, 200) == ([sent], [sent])

    def test_no_tags_are_no_error(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([]))
        assert store.get("c1", 0, FOREVER, 200) == ([], [])

    @settings(
        deadline=None,
        max_examples=50,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(few_tags, st.data())
    def test_any_batches_in_any_order_are_as_the_model(
        self, open_store: OpenStore, tags: list[Tag], data: st.DataObject
    ) -> None:
        store, model = open_store(KEEP), Model(KEEP)
        model.put(tags)
        left = data.draw(st.permutations(tags + tags[:5]))
        while left:
            count = data.draw(st.integers(1, len(left)))
            store.put(frame(left[:count]))
            left = left[count:]
        for cookie, from_ms, to_ms, limit in data.draw(st.lists(ranges, max_size=5)):
            asked = (cookie, from_ms, to_ms, limit)
            assert store.get(*asked) == model.get(*asked)
        for cookie in ("c1", "c2"):
            assert store.get(cookie, 0, 9, 99) == model.get(cookie, 0, 9, 99)
        store.close()

    def test_writers_and_readers_at_once(self, open_store: OpenStore) -> None:
        store = open_store(200)
        errors: list[Exception] = []
        done = threading.Event()

        def write(partition: int) -> None:
            try:
                for offset in range(0, 500, 20):
                    store.put(
                        frame(
                            [
                                (f"c{n % 3}", "VIEW", n, "tags", partition, n, b"%d" % n)
                                for n in range(offset, offset + 20)
                            ]
                        )
                    )
            except Exception as error:
                errors.append(error)

        def read() -> None:
            try:
                while not done.is_set():
                    views, _ = store.get("c0", 0, FOREVER, 200)
                    numbers = [int(view) for view in views]
                    assert numbers == sorted(numbers, reverse=True)
            except Exception as error:
                errors.append(error)

        writers = [threading.Thread(target=write, args=(partition,)) for partition in range(3)]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in writers + readers:
            thread.start()
        for thread in writers:
            thread.join(60)
        done.set()
        for thread in readers:
            thread.join(60)
        assert errors == []
        expected = sorted([n for n in range(500) if n % 3 == 1] * 3, reverse=True)[:200]
        assert [int(view) for view in store.get("c1", 0, FOREVER, 200)[0]] == expected

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda tags: tags.drop("tag"), "take the columns"),
            (lambda tags: tags.with_columns(pl.lit("LIKE").alias("action")), "VIEW or BUY"),
            (lambda tags: tags.with_columns(pl.lit(None, pl.String).alias("cookie")), "no null"),
            (lambda tags: tags.with_columns(pl.lit("x").alias("tag")), "take Binary for tag"),
            (lambda tags: tags.with_columns(pl.lit(-1, pl.Int64).alias("offset")), "negative"),
        ],
    )
    def test_tags_of_another_shape_are_refused(
        self, open_store: OpenStore, change: Any, reason: str
    ) -> None:
        store = open_store(KEEP)
        with pytest.raises(SinkRefusedError, match=reason):
            store.put(change(frame([tag(1)])))
        assert store.get("c1", 0, FOREVER, 200) == ([], [])

    def test_columns_in_another_order_are_taken_by_name(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(1)]).select(reversed(COLUMNS)))
        assert store.get("c1", 0, FOREVER, 200) == (names(1), [])

    def test_close_is_harmless_twice(self, open_store: OpenStore) -> None:
        store = open_store(KEEP)
        store.put(frame([tag(1)]))
        store.close()
        store.close()
