"""Event times: the columnar reading agrees with the scalar one, and both refuse nonsense."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from footfall.schemas.times import YEAR_MAX, BadTimeError, iso_ms, parse_time_ms
from footfall.streams.times import BAD_TIME, LAYOUTS, parse_lines_ms, parse_times_ms

moments = st.datetimes(datetime(1970, 1, 1), datetime(YEAR_MAX, 12, 31, 23, 59, 59))


def _text(moment: datetime, layout: str) -> str:
    millis = f".{moment.microsecond // 1000:03d}"
    text = moment.strftime("%m-%d{}%H:%M:%S").format(" " if "UTC" in layout else "T")
    zone = {"tags": millis + "Z", "store": " UTC", "plain": "Z"}[layout.split(maxsplit=1)[0]]
    return f"{moment.year:04d}-{text}{zone}"


@given(st.sampled_from(("tags", "store UTC", "plain")), st.lists(moments, min_size=1))
@example("tags", [datetime(2000, 2, 29), datetime(2100, 2, 28), datetime(1970, 1, 1)])
def test_a_column_of_times_is_read_as_each_alone(layout: str, drawn: list[datetime]) -> None:
    texts = [_text(moment, layout) for moment in drawn]
    expected = []
    for moment in drawn:
        kept_us = moment.microsecond // 1000 * 1000 if layout == "tags" else 0
        aware = moment.replace(microsecond=kept_us, tzinfo=UTC)
        expected.append(round(aware.timestamp() * 1000))
    assert parse_times_ms(texts).tolist() == expected
    assert [parse_time_ms(text) for text in texts] == expected


@given(st.lists(st.text(alphabet="0123456789-:TZtzW. UC\0", max_size=26), max_size=5))
def test_whatever_the_text_the_column_agrees_with_the_scalar(texts: list[str]) -> None:
    good = "2022-03-22T12:15:00.000Z"
    assert parse_times_ms([*texts, good]).tolist() == [*map(_alone, texts), 1_647_951_300_000]


def _alone(text: str) -> int:
    try:
        return parse_time_ms(text)
    except BadTimeError:
        return BAD_TIME


def _filled(layout: str) -> st.SearchStrategy[str]:
    """Return texts of a layout; where all digits are drawn as they come, few are times."""
    numbers = {"YYYY": 1968, "MM": 1, "DD": 27, "hh": 22, "mm": 58, "ss": 58, "HH": 22, "NN": 58}

    def fill(adds: list[int]) -> str:
        text = layout
        for (mark, first), add in zip(numbers.items(), adds, strict=False):
            text = text.replace(mark, f"{first + add:0{len(mark)}d}", 1)
        return text.replace("fff", f"{adds[-1]:03d}").replace("uuu", f"{999 - adds[-1]:03d}")

    few, all_years = st.integers(0, 2), st.integers(0, 140)
    return st.tuples(all_years, st.integers(0, 12), st.integers(0, 5), *[few] * 5).map(
        lambda drawn: fill([*drawn, drawn[0] * 7])
    )


_times_of_layouts = st.sampled_from(LAYOUTS).flatmap(_filled)
_spoiled = st.tuples(
    _times_of_layouts, st.integers(0, 31), st.sampled_from("09:-+TZ ,x\u0663\U0001f550")
).map(lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :])
_any_texts = st.one_of(
    _times_of_layouts, _times_of_layouts, _spoiled, st.text(alphabet="2019-T:Z. UC", max_size=34)
)


@settings(deadline=None)
@given(
    st.lists(_any_texts, min_size=1, max_size=8),
    st.integers(1, 300),
    st.integers(0, 1_000),
)
@example(list(LAYOUTS), 1, 1)
@example(["2019-10-01T00:00:00.5+0530", "2019-10-01T00:00:00+05:30"], 200, 1)
def test_any_mix_of_layouts_is_read_as_each_text_alone(
    texts: list[str], copies: int, seed: int
) -> None:
    # Only many texts of a layout are read as a matrix.
    mixed = texts * copies
    random.Random(seed).shuffle(mixed)
    alone = {text: _alone(text) for text in texts}
    assert parse_times_ms(mixed).tolist() == [alone[text] for text in mixed]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_one_that_is_understood(layout: str) -> None:
    text = layout.replace("YYYY-MM-DD", "2019-10-01").replace("hh:mm:ss", "00:00:07")
    text = text.replace("fff", "250").replace("uuu", "999")
    zone_min = {"+": -90, "-": 90}.get(layout[-6], 0) if layout.endswith("HH:NN") else 0
    expected = 1_569_888_007_000 + zone_min * 60_000 + (250 if "fff" in layout else 0)
    column = [text.replace("HH:NN", "01:30")] * 500
    assert parse_times_ms(column).tolist() == [expected] * 500
    assert parse_times_ms([*column, "soon"]).tolist() == [*[expected] * 500, BAD_TIME]


@pytest.mark.parametrize(
    "text",
    [
        "2019-02-29T00:00:00.000Z",
        "2019-13-01T00:00:00.000Z",
        "2019-00-01T00:00:00.000Z",
        "2019-01-32T00:00:00.000Z",
        "2019-01-00T00:00:00.000Z",
        "2019-01-01T24:00:00.000Z",
        "2019-01-01T00:60:00.000Z",
        "2019-01-01T00:00:60.000Z",
        "1969-12-31T23:59:59.999Z",
        "9999-01-01T00:00:00.000Z",
        "2019-01-01T00:00:00.00 Z",
        "2019-01-01T00:00:00.000X",
        "\uff12019-01-01T00:00:00.000Z",
        "1970-01-01T00:00:00+05:00",
        "2019-01-01",
        "",
        "yesterday",
        "1569888000",
        "2019-W10-2T00:00:00.000Z",
        "2019-01-01T00:00:00.000Z\0",
        "2019-01-01T00:00:00\0Z",
        "2016-12-31T23:59:60Z",
        "2019-01-01T00:00:00+24:00",
    ],
)
def test_what_is_no_time_of_ours_is_refused(text: str) -> None:
    assert parse_times_ms([text]).tolist() == [BAD_TIME]
    assert parse_times_ms([text, "2019-01-01T00:00:00.000Z"])[0] == BAD_TIME
    assert parse_times_ms([text, "2019-01-01T00:00:00"] * 200)[::2].tolist() == [BAD_TIME] * 200
    with pytest.raises(BadTimeError):
        parse_time_ms(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2016-12-31T23:59:60Z", "leap seconds are not counted"),
        ("2019-01-01T00:00:00+24:00", "offset +24:00 is a day or more"),
        ("2019-01-01T24:00:00Z", "hour 24 is over 23"),
        ("2019-13-01T00:00:00Z", "month 13 is over 12"),
        ("2019-02-30T00:00:00Z", "the calendar has no such day"),
        ("2019-00-01T00:00:00Z", "the calendar has no such day"),
        ("9999-01-01T00:00:00Z", "year 9999 is outside 1970 to 2105"),
        ("2019-01-01T00:00:00.000Z\0", "takes ISO 8601, like 2022-03-22T12:15:00.000Z"),
        ("x" * 1000, "takes ISO 8601"),
    ],
)
def test_what_is_wrong_with_a_time_is_said_in_our_words(text: str, reason: str) -> None:
    with pytest.raises(BadTimeError) as refusal:
        parse_time_ms(text)
    said = str(refusal.value)
    assert repr(text[:40])[:-1] in said
    assert reason in said
    assert "timedelta" not in said
    assert len(said) < 200


def test_small_letters_are_those_of_rfc_3339() -> None:
    texts = ["2022-03-22t12:15:00.000z", "2022-03-22 12:15:00 utc"]
    assert [parse_time_ms(text) for text in texts] == [1_647_951_300_000] * 2
    assert parse_times_ms(texts * 300).tolist() == [1_647_951_300_000] * 600


def test_zones_and_fractions_are_understood() -> None:
    texts = ["2019-10-01T02:00:00+02:00", "2019-10-01 00:00:00", "2019-10-01T00:00:00.000999Z"]
    assert parse_times_ms(texts).tolist() == [1_569_888_000_000] * 3


def test_two_texts_cannot_pass_for_one_of_the_other_length() -> None:
    good = "2022-03-22T12:15:00.000Z"
    assert parse_times_ms([good + good, ""]).tolist() == [BAD_TIME, BAD_TIME]


@given(st.integers(0, 4_280_000_000_000))
def test_a_time_written_is_the_time_read(time_ms: int) -> None:
    assert parse_time_ms(iso_ms(time_ms)) == time_ms


@given(st.lists(st.text(alphabet="0123456789-:TZ. UC\n", max_size=26), max_size=5))
def test_lines_are_the_texts_or_refused(texts: list[str]) -> None:
    drawn = [*texts, "2022-03-22T12:15:00.000Z"]
    times = parse_lines_ms("".join(f"{text}\n" for text in drawn), len(drawn))
    if any("\n" in text for text in drawn):
        assert times is None
    else:
        assert times is not None
        assert times.tolist() == parse_times_ms(drawn).tolist()
