"""The user_tags world: the same bytes however it is cut, and as much disorder as asked for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from footfall.generator.malformed import MALFORMED_KINDS
from footfall.generator.tags import (
    COOKIES,
    DUPLICATE_DISTANCE_MAX,
    GOOD_KINDS,
    HOT_COOKIES,
    LATE_AGE_MS,
    START_MS,
    TagWorld,
)
from footfall.schemas.times import BadTimeError, iso_ms, parse_time_ms
from footfall.schemas.topics import RECORD_BYTES_MAX
from footfall.schemas.user_tags import UserTag

SMALL_KINDS = tuple(kind for kind in MALFORMED_KINDS if kind != "too_large")
MIXED = TagWorld(
    seed=3, late=0.1, out_of_order=0.1, duplicate=0.2, malformed=0.1, malformed_kinds=SMALL_KINDS
)
decode = msgspec.json.Decoder(UserTag).decode


def test_a_tag_is_written_as_the_catalogue_has_it() -> None:
    [(key, value)] = TagWorld(seed=1).batch(0, 1)
    tag = json.loads(value)
    assert list(tag) == [
        "time", "cookie", "country", "device", "action", "origin", "product_info",
    ]  # fmt: skip
    assert list(tag["product_info"]) == ["product_id", "brand_id", "category_id", "price"]
    assert tag["time"] == "2022-03-22T12:15:00.000Z"
    assert key == tag["cookie"].encode()
    assert value == json.dumps(tag, separators=(",", ":")).encode()


@given(
    start=st.integers(0, 10**12),
    cuts=st.lists(st.integers(0, 400), min_size=1, max_size=8),
    seed=st.integers(-(2**70), 2**70),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_batches_cut_anywhere_are_the_same_bytes(start: int, cuts: list[int], seed: int) -> None:
    world = TagWorld(
        seed=seed,
        late=0.1,
        out_of_order=0.1,
        duplicate=0.3,
        malformed=0.1,
        malformed_kinds=SMALL_KINDS,
    )
    whole = world.batch(start, sum(cuts))
    parts, at = [], start
    for count in cuts:
        parts += world.batch(at, count)
        at += count
    assert parts == whole


def test_the_same_seed_gives_the_same_bytes_in_every_process_and_version() -> None:
    # A digest of the bytes: progress files and published figures rely on them.
    digest = hashlib.sha256()
    for key, value in MIXED.batch(999_000, 2_000):
        digest.update((key or b"") + b"\n" + value + b"\n")
    assert digest.hexdigest() == (
        "45dac8dc3575f35291daeed684711cf9cd9a243c3bb2c21aa4fe658a326f78c3"
    )
    assert MIXED.batch(0, 50) != TagWorld(seed=4).batch(0, 50)


def test_every_record_of_a_world_without_disorder_is_a_clean_tag() -> None:
    world = TagWorld(seed=5)
    for index, (key, value) in enumerate(world.batch(0, 20_000)):
        tag = decode(value)
        assert tag.time == iso_ms(START_MS + index)
        assert tag.cookie.encode() == key
        assert tag.product_info.price > 0
    assert set(world.kinds(0, 20_000)) == {"clean"}


def test_the_truth_is_what_was_sent() -> None:
    records = MIXED.batch(50_000, 3_000)
    kinds = MIXED.kinds(50_000, 3_000)
    truth = MIXED.tags(50_000, 3_000)
    assert [good["index"] - 50_000 for good in truth] == [
        row for row, kind in enumerate(kinds) if kind in GOOD_KINDS
    ]
    for good in truth:
        value = records[good["index"] - 50_000][1]
        assert json.loads(value) == good["tag"]
        assert good["kind"] == kinds[good["index"] - 50_000]
        assert parse_time_ms(good["tag"]["time"]) == good["time_ms"]
        assert decode(value).cookie == good["tag"]["cookie"]


def test_shares_of_disorder_come_out_as_asked() -> None:
    counts = Counter(MIXED.kinds(1_000, 50_000))
    malformed = sum(count for kind, count in counts.items() if kind not in GOOD_KINDS)
    for share, asked in (
        (counts["late"], MIXED.late),
        (counts["out_of_order"], MIXED.out_of_order),
        # Fewer by those that would have repeated a malformed record.
        (counts["duplicate"], MIXED.duplicate * 0.9),
        (malformed, MIXED.malformed),
    ):
        assert share / 50_000 == pytest.approx(asked, rel=0.06)


def test_disorder_is_of_the_kind_it_says() -> None:
    start, count = 2_000_000, 5_000
    before = DUPLICATE_DISTANCE_MAX * 20
    truth = MIXED.tags(start, count)
    records = MIXED.batch(start - before, count + before)
    for good in truth:
        age_ms = START_MS + good["index"] - good["time_ms"]
        if good["kind"] == "clean":
            assert age_ms == 0
        elif good["kind"] == "out_of_order":
            assert 0 < age_ms < 5_000
        elif good["kind"] == "late":
            assert age_ms >= LATE_AGE_MS
        else:
            row = good["index"] - start + before
            assert records[row] in records[:row]


@pytest.mark.parametrize("kind", MALFORMED_KINDS)
def test_every_kind_of_malformed_record_can_be_had_and_is_none_of_ours(kind: str) -> None:
    world = TagWorld(seed=9, malformed=0.9, malformed_kinds=(kind,))
    broken = [
        value
        for (_, value), found in zip(world.batch(0, 60), world.kinds(0, 60), strict=True)
        if found == kind
    ]
    assert len(broken) > 30
    for value in broken:
        assert b"\n" not in value
        assert is_refused(value), value[:300]


def is_refused(value: bytes) -> bool:
    if len(value) > RECORD_BYTES_MAX:
        return True
    try:
        time_ms = parse_time_ms(decode(value).time)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadTimeError):
        return True
    return time_ms > parse_time_ms("2059-01-01T00:00:00Z")


def test_every_malformed_kind_appears_and_too_large_ones_are_rare() -> None:
    counts = Counter(TagWorld(seed=2, malformed=0.5).kinds(0, 10_000))
    assert set(counts) == {"clean", *MALFORMED_KINDS}
    assert counts["too_large"] * 5 < min(counts[kind] for kind in SMALL_KINDS)


def test_a_malformed_record_is_keyed_like_the_tag_it_was_to_be() -> None:
    clean = TagWorld(seed=9).batch(0, 200)
    broken = TagWorld(seed=9, malformed=0.5, malformed_kinds=SMALL_KINDS).batch(0, 200)
    assert [key for key, _ in broken] == [key for key, _ in clean]


def test_the_shop_is_as_large_as_the_catalogue_says() -> None:
    world = TagWorld(seed=1)
    tags = [decode(value) for _, value in world.batch(0, 120_000)]
    products = {tag.product_info.product_id: tag.product_info for tag in tags}
    assert all(products[tag.product_info.product_id] == tag.product_info for tag in tags)
    assert len({info.brand_id for info in products.values()}) == 250
    assert len({info.category_id for info in products.values()}) == 67
    assert len({tag.country for tag in tags}) == 100
    assert len({tag.origin for tag in tags}) == 1_000
    assert len(products) > 20_000
    buys = sum(tag.action == "BUY" for tag in tags)
    assert buys / len(tags) == pytest.approx(0.1, rel=0.05)
    homes: dict[str, set[tuple[str, str]]] = {}
    for tag in tags:
        homes.setdefault(tag.cookie, set()).add((tag.country, tag.device))
    assert max(map(len, homes.values())) == 1
    assert len(homes) == pytest.approx(COOKIES * (1 - (1 - 1 / COOKIES) ** 114_000), rel=0.02)


def test_hot_cookies_pass_200_tags() -> None:
    world = TagWorld(seed=8)
    counts = Counter((key or b"").decode() for key, _ in world.batch(0, 100_000))
    assert world.hot_cookies[0] == counts.most_common(1)[0][0]
    assert sum(counts[cookie] > 200 for cookie in world.hot_cookies) >= 3
    assert len(set(world.hot_cookies)) == HOT_COOKIES
    hot = set(world.hot_cookies)
    assert max(count for key, count in counts.items() if key not in hot) < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"late": -0.1}, "shares"),
        ({"late": 0.5, "malformed": 0.5}, "0.9 at most together"),
        ({"malformed_kinds": ("rude",)}, "rude"),
        ({"malformed_kinds": ()}, "not none"),
    ],
)
def test_a_world_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TagWorld(**options)  # type: ignore[arg-type]


def test_other_options_are_another_source() -> None:
    worlds = [TagWorld(seed=1), TagWorld(seed=2), TagWorld(seed=1, late=0.1)]
    assert len({world.identity for world in worlds}) == 3
    assert TagWorld(seed=1, malformed_kinds=("nan",)).identity == worlds[0].identity
