"""Letters in, tables and lines out: what ``footfall dead-letters ls`` and ``show`` tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from footfall.api.live import shown_letters
from footfall.cli.errors import UsageError
from footfall.cli.letters.plan import plan, why_not_twice
from footfall.cli.letters.read import (
    Choice,
    Letter,
    Place,
    Read,
    collect,
    grouped,
    parse_place,
    printable,
)
from footfall.cli.letters.show import payload_lines, record_lines, wrong_lines
from footfall.cli.ranges import has_ranges
from footfall.cli.summary import dead_letters
from footfall.schemas.dead_letters import (
    PAYLOAD_BYTES_MAX,
    DeadLetter,
    LateEvent,
    Retry,
    RetryNote,
    encode,
    payload_fields,
    retry_note_of,
)
from footfall.schemas.settings import read_settings
from footfall.sinks.letters import LetterWriter
from footfall.sinks.topic_files import FileTopics
from tests.cli_support import footfall, one_line


def letter(flow: str, at: int, payload: bytes = b"{}", **fields: Any) -> DeadLetter:
    """Return a letter for the record at an offset of user_tags/0."""
    given: dict[str, Any] = {"topic": "user_tags", "partition": 0, "code": "not_json"}
    given |= {"reason": "no JSON", **payload_fields(payload), **fields}
    return DeadLetter(flow=flow, offset=at, **given)


def note(at: int, step: str, end_offset: int = 10) -> Retry:
    """Return a note for the record at an offset of user_tags/0."""
    return Retry(RetryNote("user_tags", 0, at, step, end_offset, 1_700_000_000_000))  # type: ignore[arg-type]


def reads(*written: Any) -> list[Read]:
    return [
        Read(0, at, one if isinstance(one, bytes) else encode(one))
        for at, one in enumerate(written)
    ]


def test_a_letter_that_stands_twice_is_one() -> None:
    found = collect(reads(letter("a", 1), letter("b", 1), letter("a", 1), letter("a", 2)))
    assert found.count == 3
    assert [list(of) for of in found.letters.values()] == [["a", "b"], ["a"]]


def test_what_is_no_letter_is_passed_over() -> None:
    found = collect(reads(b"", b"{", b"\xff", b'{"retry": 1}', b'{"retry":{}}', letter("a", 1)))
    assert found.count == 1 and not found.notes


def test_groups_tell_how_many_and_where() -> None:
    found = collect(
        reads(
            letter("a", 7, reason="seven"),
            letter("a", 3, reason="three"),
            letter("a", 5, partition=1),
            letter("a", 4, code="bad_time"),
            letter("b", 3),
        )
    )
    letters = [one for of in found.letters.values() for one in of.values()]
    most, *_ = groups = grouped(letters)
    assert [(group.flow, group.code, group.letters) for group in groups] == [
        ("a", "not_json", 3),
        ("a", "bad_time", 1),
        ("b", "not_json", 1),
    ]
    assert (str(most.first), str(most.last)) == ("user_tags/0:3", "user_tags/1:5")
    assert most.example == "three"


def test_a_record_that_was_sent_is_listed_only_when_asked_for() -> None:
    found = collect(
        reads(letter("a", 1), letter("a", 2), letter("a", 3), note(1, "intent"), note(1, "sent"))
    )
    any_letter = Choice()
    assert [r[0].place.offset for r in found.records(any_letter, sent_too=False)] == [2, 3]
    assert [r[0].place.offset for r in found.records(any_letter, sent_too=True)] == [1, 2, 3]


def test_an_intent_is_open_until_it_is_settled_and_its_earliest_end_counts() -> None:
    found = collect(reads(letter("a", 1), note(1, "intent", 20), note(1, "intent", 30)))
    assert found.notes[Place("user_tags", 0, 1)].end_offset == 20
    found.note(note(1, "not_sent").retry)
    assert not found.notes
    found.note(note(1, "sent").retry)
    found.note(note(1, "not_sent").retry)
    assert found.was_sent(Place("user_tags", 0, 1))


def test_a_choice_takes_the_record_with_all_its_letters() -> None:
    found = collect(reads(letter("a", 1), letter("b", 1, code="bad_time"), letter("a", 2)))
    (record,) = found.records(Choice(flow="b"), sent_too=False)
    assert [one.flow for one in record] == ["a", "b"]
    assert found.records(Choice(flow="a", code="bad_time"), sent_too=False) == []
    assert len(found.records(Choice(topic="user_tags"), sent_too=False)) == 2


@pytest.mark.parametrize(
    "text", ["", "user_tags", "user_tags/1", "user_tags:1", "t/-1:2", "t/1:x"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="TOPIC/PARTITION:OFFSET"):
        parse_place(text)


def test_a_place_is_read_as_it_is_printed() -> None:
    place = Place("2019-Oct.csv.gz", 3, 12)
    assert parse_place(str(place)) == place


def test_readers_of_the_topic_pass_over_notes(tmp_path: Path) -> None:
    records = [encode(note(1, "sent")), encode(letter("a", 1))]
    assert [one.flow for one in shown_letters(records)] == ["a"]
    topics = FileTopics(tmp_path / "topics")
    writer = LetterWriter(topics, "dead_letters")
    writer.write([letter("a", 1), note(1, "intent"), note(1, "sent")])
    writer.close()
    settings = read_settings({"FOOTFALL_HOME": str(tmp_path)})
    assert dead_letters(settings) == {("a", "not_json"): 1}


def test_notes_stand_in_the_partition_of_their_letters(tmp_path: Path) -> None:
    topics = FileTopics(tmp_path)
    writer = LetterWriter(topics, "dead_letters")
    writer.write([letter("a", 1), note(1, "sent")])
    (used,) = [path for path in (tmp_path / "dead_letters").glob("*.jsonl") if path.stat().st_size]
    first, second = used.read_bytes().splitlines()
    assert retry_note_of(first) is None
    assert retry_note_of(second) == note(1, "sent").retry


def test_show_tells_where_the_payload_is_wrong() -> None:
    payload = b'{"cookie": "c", "product_info": {"price": ["12"]}}'
    reason = "product_info.price: expected `int`, got `array`"
    lines = "\n".join(record_lines([letter("a", 5, payload, reason=reason)], None))
    assert lines.startswith("user_tags/0:5\n  a  not_json: product_info.price: ")
    assert 'at product_info.price stands ["12"]' in lines
    assert '\n    "cookie": "c",\n' in lines
    assert wrong_lines("invalid character (byte 2)", b"{}xyz") == ["at byte 2: {} >>x<< yz"]
    assert wrong_lines("trailing characters (byte 9)", b"{}") == []
    assert wrong_lines("gone[3]: expected `int`", b'{"gone": [1]}') == []


def test_show_dumps_bytes_that_are_no_text_and_says_what_was_cut() -> None:
    lines = list(payload_lines(b"\xff\x00abc" * 300))
    assert lines[0].startswith("000000  ff 00 61 62 63 ") and lines[0].endswith("..abc..abc..abc.")
    assert lines[-1] == "... and 476 bytes more"
    whole = letter("a", 1, b"x" * (PAYLOAD_BYTES_MAX + 5))
    assert f"the first {PAYLOAD_BYTES_MAX:,} of {PAYLOAD_BYTES_MAX + 5:,} bytes" in "\n".join(
        record_lines([whole], None)
    )


def test_a_payload_cannot_speak_to_the_terminal() -> None:
    shown = "\n".join(payload_lines(b"not \x1b[2J JSON \xc2\x9b1m"))
    assert "\x1b" not in shown and "\x9b" not in shown and "\\x1b[2J" in shown
    assert printable("plain ąę\n") == "plain ąę\n"


def light(flow: str, at: int, **fields: Any) -> Letter:
    (of,) = collect(reads(letter(flow, at, **fields))).letters.values()
    return of[flow]


def test_a_record_that_another_flow_has_used_is_not_sent_to_it_twice() -> None:
    record = [light("a", 5)]
    place = ("user_tags", 0)
    any_flow, no_flow = (lambda _flow: True), (lambda _flow: False)
    read = {"a": {place: 9}, "c": {("store_events", 0): 9}}
    assert why_not_twice(record, read, any_flow) is None
    used = why_not_twice(record, {"a": {place: 9}, "b": {place: 6}}, any_flow)
    assert used is not None and "b has used it" in used and "footfall replay a --from" in used
    behind = why_not_twice(record, {"b": {place: 5}}, any_flow)
    assert behind is not None and "b is at 5, has not read it yet" in behind
    assert "footfall replay a --from" in behind
    for next_offset in (5, 6):
        refused = why_not_twice(record, {"b": {place: next_offset}}, no_flow)
        assert refused is not None and "replay" not in refused and "--force" in refused
    assert has_ranges("minute_buckets") and not has_ranges("of_another_release")
    both = [light("a", 5), light("b", 5)]
    assert why_not_twice(both, {"b": {place: 6}}, any_flow) is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"code": "bad_row", "topic": "x.csv"}, "a row of a file"),
        ({"code": "empty"}, "it is empty"),
        ({"code": "too_large"}, "over the limit"),
        ({"topic": "nowhere"}, "no topic nowhere"),
        ({"partition": 4}, "has only 2 partitions"),
    ],
)
def test_a_plan_leaves_out_what_no_sending_mends(fields: dict[str, Any], why: str) -> None:
    letters = collect(reads(letter("a", 1, **fields), letter("a", 2)))
    counts = {"user_tags": 2}
    made = plan(
        letters.records(Choice(), sent_too=True),
        letters,
        {},
        lambda name: counts.get(name, 0),
        lambda _: True,
    )
    assert [record[0].place.offset for record in made.send] == [2]
    assert [(one.place.offset, why in one.why) for one in made.skipped] == [(1, True)]


def test_force_overlooks_other_flows_and_nothing_else() -> None:
    letters = collect(reads(letter("a", 1), letter("a", 2, code="empty"), note(1, "intent")))
    records = letters.records(Choice(), sent_too=True)
    used = {"b": {("user_tags", 0): 9}}
    assert plan(records, letters, used, lambda _: 1, lambda _: True).send == []
    assert len(plan(records, letters, used, lambda _: 1, lambda _: True, force=True).send) == 1
    letters.note(note(1, "sent").retry)
    assert plan(records, letters, used, lambda _: 1, lambda _: True, force=True).send == []


def test_the_commands_tell_what_stands_in_the_topics(tmp_path: Path) -> None:
    home = tmp_path / "home"
    topics = FileTopics(home / "topics")
    LetterWriter(topics, "dead_letters").write(
        [letter("a", at, b"\xff%d" % at) for at in range(3)] + [letter("b", 1, code="bad_time")]
    )
    late = LateEvent(
        "a", "user_tags", 1, 7, "2022-03-22T12:00:00Z", "2022-03-22T12:30:00Z", 2, "{}"
    )
    LetterWriter(topics, "late_events").write([late])
    listed = footfall(home, "dead-letters", "ls", "--late").stdout.splitlines()
    assert listed[2].split()[:6] == [
        "a", "user_tags", "not_json", "3", "user_tags/0:0", "user_tags/0:2",
    ]  # fmt: skip
    assert listed[-1] == "3 dead records, 1 late event"
    lines = footfall(home, "dead-letters", "ls", "--records", "--limit", "2", "--flow", "a")
    assert [line.split()[1] for line in lines.stdout.splitlines()[2:4]] == [
        "user_tags/0:0", "user_tags/0:1",
    ]  # fmt: skip
    assert "1 more" in lines.stderr
    shown = footfall(home, "dead-letters", "show", "user_tags/0:1").stdout
    assert "a  not_json: no JSON" in shown and "b  bad_time: no JSON" in shown
    assert "000000  ff 31" in shown
    assert "watermark at" in footfall(home, "dead-letters", "show", "user_tags/1:7").stdout
    told = one_line(footfall(home, "dead-letters", "show", "user_tags/0:9"))
    assert "no letter for user_tags/0:9" in told
    asked = footfall(home, "dead-letters", "retry")
    assert asked.returncode == 2 and "--yes" in one_line(asked)
    wrong = footfall(home, "dead-letters", "ls", "--reason", "not_jsn")
    assert "did you mean not_json?" in one_line(wrong)


def test_notes_are_as_they_are_documented() -> None:
    written = json.loads(encode(note(4, "sent")))
    assert written == {
        "retry": {
            "topic": "user_tags",
            "partition": 0,
            "offset": 4,
            "step": "sent",
            "end_offset": 10,
            "noted_ms": 1_700_000_000_000,
        }
    }
