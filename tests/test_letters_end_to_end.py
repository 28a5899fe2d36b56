"""A flow, its dead letters, a fix, a retry: the tables are as if the records had been good."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from footfall.cli.databases import ask_store
from footfall.cli.init import make_store_tables
from footfall.cli.letters.read import Choice, collect
from footfall.cli.letters.retry import Retry
from footfall.cli.letters.topics import RetryTopics, read_topic
from footfall.cli.main import main
from footfall.flows import store_metrics
from footfall.schemas.dead_letters import RetryNote
from footfall.schemas.records import TopicRecord
from footfall.schemas.settings import Settings, read_settings
from footfall.schemas.tables.store_metrics import SUMS
from footfall.sinks.topic_files import FileTopics
from footfall.streams.columns import cents, text
from footfall.streams.decode import Records
from footfall.streams.open import sent_again_in
from footfall.streams.runner import Run
from footfall.streams.topic_files import FileTopic

USERS = 40
KINDS = ("view", "cart", "purchase", "view")


Footfall = Callable[..., str]


def event(number: int, price: Any) -> bytes:
    return msgspec.json.encode(
        {
            "event_time": f"2019-10-01 00:00:{number // 10:02d} UTC",
            "event_type": KINDS[number % len(KINDS)],
            "product_id": number,
            "category_id": 2,
            "price": price,
            "user_id": number % USERS,
        }
    )


def good(number: int) -> bytes:
    return event(number, number / 4)


def mostly_good(number: int) -> bytes:
    """Return an event; every seventh has its price as text, which the flow does not take."""
    return event(number, f"{number / 4}") if number % 7 == 0 else good(number)


class LenientEvent(msgspec.Struct):
    """The fix: a price may also come as text."""

    event_time: str
    event_type: str
    product_id: int
    category_id: int
    price: float | str
    user_id: int


FIXED = Records(
    LenientEvent,
    time="event_time",
    columns={
        "event_type": text(lambda events: [event.event_type for event in events]),
        "price_cents": cents(lambda events: [float(event.price) for event in events]),
    },
)


@pytest.fixture
def footfall(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Footfall:
    """Return a function that runs ``footfall dead-letters`` on a home and gives its output."""

    def run(home: Path, *words: str) -> str:
        monkeypatch.setenv("FOOTFALL_HOME", str(home))
        capsys.readouterr()
        code = main(["dead-letters", *words])
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    return run


def home_with(folder: Path, made: Any) -> Settings:
    settings = read_settings({"FOOTFALL_HOME": str(folder)})
    topics = FileTopics(folder / "topics")
    topics.create("store_events", 3)
    topics.create("dead_letters", 2)
    topics.write("store_events", [(b"%d" % (n % USERS), made(n)) for n in range(300)])
    topics.close()
    list(make_store_tables(settings))
    return settings


def run_to_the_end(settings: Settings) -> None:
    """Run the flow as a worker runs it, from where it was."""
    recovery = settings.footfall_home / "recovery-of-test"
    if not recovery.exists():
        recovery.mkdir()
        init_db_dir(recovery, 1)
    run_main(
        store_metrics.FLOW.wire(settings, Run(once=True)),
        epoch_interval=timedelta(0),
        recovery_config=RecoveryConfig(str(recovery), timedelta(0)),
    )


def table(settings: Settings) -> list[list[Any]]:
    names = ", ".join(("start_event_time", *SUMS))
    return ask_store(settings, f"SELECT {names} FROM events ORDER BY 1")[1]


def test_after_a_fix_and_a_retry_the_tables_are_as_if_all_had_been_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, footfall: Footfall
) -> None:
    wanted = home_with(tmp_path / "good", good)
    run_to_the_end(wanted)
    broken = home_with(tmp_path / "broken", mostly_good)
    home = broken.footfall_home
    run_to_the_end(broken)
    dead = sum(number % 7 == 0 for number in range(300))
    assert table(broken) != table(wanted)
    summary = footfall(home, "ls").splitlines()[-1]
    assert summary == f"{dead} dead records"

    would = footfall(home, "retry", "--dry-run")
    assert would == f"would send {dead} records again: {dead} to store_events\n"
    before = sizes(home)
    monkeypatch.setattr(store_metrics, "ROWS_OF_STORE", FIXED)
    done = footfall(home, "retry", "--yes", "--reason", "wrong_field")
    assert f"{dead} sent\n" in done
    assert [after > size for after, size in zip(sizes(home), before, strict=True)] == [True] * 3
    run_to_the_end(broken)
    assert table(broken) == table(wanted)

    once = sizes(home)
    again = footfall(home, "retry", "--yes")
    assert again == "nothing to send\n"
    assert sizes(home) == once
    run_to_the_end(broken)
    assert table(broken) == table(wanted)
    assert f"no dead records, {dead} sent again" in footfall(home, "ls")
    assert "not_sent" not in footfall(home, "ls", "--all")

    # Who reads the topic anew finds each record once, though both would be good now.
    shutil.rmtree(home / "recovery-of-test")
    (home / "store.sqlite").unlink()
    list(make_store_tables(broken))
    run_to_the_end(broken)
    assert table(broken) == table(wanted)
    assert f"no dead records, {dead} sent again" in footfall(home, "ls")
    monkeypatch.setenv("FOOTFALL_HOME", str(home))
    assert main(["verify", "store_metrics", "--complete"]) == 0
    assert main(["replay", "store_metrics", "--complete", "--to", "2030-01-01"]) == 0
    assert table(broken) == table(wanted)


def test_a_retry_keeps_the_partition_and_the_order_of_a_user(
    tmp_path: Path, footfall: Footfall
) -> None:
    settings = home_with(tmp_path / "home", mostly_good)
    run_to_the_end(settings)
    home = settings.footfall_home
    before = [lines(home, partition) for partition in range(3)]
    topic = FileTopic(home / "topics", "store_events")
    said = footfall(home, "retry", "--yes")
    assert "sent" in said
    assert "without key" not in said
    twice = sent_again_in(settings, "store_events")()
    for partition, stood in enumerate(before):
        bad = [(offset, line) for offset, line in enumerate(stood) if is_bad(line)]
        assert lines(home, partition) == [*stood, *(line for _, line in bad)]
        assert set(twice.get(partition, ())) == {at for at, _ in bad}
        # With its key and its time, as if it had always stood there.
        for number, (at, line) in enumerate(bad):
            sent = topic.record_at(partition, len(stood) + number)
            assert sent == topic.record_at(partition, at)
            user = msgspec.json.decode(line)["user_id"]
            assert (sent.key, sent.value) == (b"%d" % user, line)
    assert not sent_again_in(settings, "user_tags")()


def test_a_second_retry_at_once_is_turned_away(tmp_path: Path, footfall: Footfall) -> None:
    settings = home_with(tmp_path / "home", mostly_good)
    with (settings.footfall_home / "dead-letters.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = footfall(settings.footfall_home, "retry", "--yes")
    assert said.startswith("footfall: another retry runs")


class KilledError(Exception):
    """The process ends here."""


class KilledTopics(RetryTopics):
    """Real topics, and a command that is killed after so many writes to them."""

    def __init__(self, settings: Settings, writes_left: int) -> None:
        super().__init__(settings)
        self._writes_left = writes_left

    def _count(self) -> None:
        if not self._writes_left:
            raise KilledError
        self._writes_left -= 1

    def send(self, topic: str, partition: int, records: Sequence[TopicRecord]) -> None:
        for record in records:
            self._count()
            super().send(topic, partition, [record])

    def note(self, notes: Sequence[RetryNote]) -> None:
        for note in notes:
            self._count()
            super().note([note])


def test_a_command_killed_again_and_again_sends_each_record_once(
    tmp_path: Path, footfall: Footfall
) -> None:
    settings = home_with(tmp_path / "home", mostly_good)
    run_to_the_end(settings)
    home = settings.footfall_home
    before = [lines(home, partition) for partition in range(3)]
    kills = 0
    # In every round a little further than the round before has come.
    for writes in range(20, 60, 9):
        topics = KilledTopics(settings, writes)
        letters = collect(read_topic(settings, "dead_letters"))
        retry = Retry(topics, letters, lambda: 0, batch_records=4)
        try:
            retry.run(letters.records(Choice(), sent_too=False))
        except KilledError:
            kills += 1
        finally:
            topics.close()
    footfall(home, "retry", "--yes")
    assert kills >= 3
    for partition, stood in enumerate(before):
        assert lines(home, partition) == [*stood, *filter(is_bad, stood)]


def is_bad(line: bytes) -> bool:
    return isinstance(msgspec.json.decode(line)["price"], str)


def lines(home: Path, partition: int) -> list[bytes]:
    return (home / "topics" / "store_events" / f"{partition}.jsonl").read_bytes().splitlines()


def sizes(home: Path) -> list[int]:
    return [len(lines(home, partition)) for partition in range(3)]
