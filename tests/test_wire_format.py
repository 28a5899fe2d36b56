"""The lines of a poll, from values of Kafka's records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from footfall.streams.wire_format import CONFLUENT, PLAIN, is_confluent, lines_of

HEAD = b"\0\0\0\0\7"


def test_a_tombstone_and_an_empty_value_are_both_empty_lines_and_told_apart() -> None:
    assert lines_of([b"a", None, b"", None, b"b"], PLAIN) == (b"a\n\n\n\nb\n", [1, 3])
    assert lines_of([None], CONFLUENT) == (b"\n", [0])


def test_the_head_goes_before_newlines_do() -> None:
    values = [HEAD + b"{}", b"\0\n\n\n\n{\n}", b"{}", b"\0\0\0\0\7", b""]
    assert lines_of(values, CONFLUENT) == (b"{}\n{ }\n{}\n\0\0\0\0\7\n\n", [])
    assert lines_of(values[:1], PLAIN) == (HEAD + b"{}\n", [])


def test_no_json_is_taken_for_confluents_wire_format() -> None:
    assert is_confluent(HEAD + b"{}")
    assert is_confluent(b"\0\0\0\0\0\2avro")
    for record in (b"", b"\0", HEAD, b"{}", b'  {"a": 1}', b"[1, 2, 3]"):
        assert not is_confluent(record), record


values_of = st.lists(st.none() | st.binary(max_size=12), min_size=1)


@given(values_of, st.sampled_from((PLAIN, CONFLUENT)))
def test_every_value_is_one_line(values: list[bytes | None], wire_format: str) -> None:
    data, tombstones = lines_of(values, wire_format)
    lines = data.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(values)
    assert tombstones == [place for place, value in enumerate(values) if value is None]
    for line, value in zip(lines, values, strict=True):
        plain = value or b""
        if wire_format == CONFLUENT and is_confluent(plain):
            plain = plain[len(HEAD) :]
        assert line == plain.replace(b"\n", b" ")
