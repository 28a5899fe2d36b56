"""split_topics: records of a topic in, the same bytes in one topic per kind out, each once."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from bytewax.inputs import AbortExecution
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from footfall.flows.split_topics import FLOW, records, splittable
from footfall.schemas.settings import SettingError, read_settings
from footfall.schemas.topic_files import partitions_of, records_path
from footfall.schemas.topics import (
    PLATFORM_LOGS,
    SHOP_EVENTS,
    STORE_EVENTS,
    TOPICS,
    USER_TAGS,
    Topic,
)
from footfall.sinks import PartitionBatch, SinkRefusedError
from footfall.sinks.split import NAME_MAX, SplitSink, Targets, target_of
from footfall.sinks.topic_files import FileTopics
from footfall.streams.engine import Outputs
from footfall.streams.runner import run_worker
from footfall.streams.testing import Event, ListSink, Result, run_flow
from tests.split_support import splitting

ROOT = Path(__file__).parent.parent
Split = dict[tuple[str, int], list[bytes]]
"""The records of each (topic, partition)."""


def record(kind: str, number: int, **more: Any) -> bytes:
    """Return an event of a kind, with some blanks that nobody needs."""
    fields = {"event": kind, "timestamp": "2022-03-22T12:15:00Z", "user_id": number, **more}
    return json.dumps(fields, separators=(" ,", " : ")).encode()


def expected(partitions: Sequence[Sequence[bytes]], kind_of: str = "event") -> Split:
    found: Split = defaultdict(list)
    for partition, values in enumerate(partitions):
        for value in values:
            found[target_of("shop_events", json.loads(value)[kind_of]), partition].append(value)
    return dict(found)


def split_of(folder: Path, source: str = "shop_events") -> Split:
    """Return all records in the topics of kinds."""
    found: Split = {}
    for name in FileTopics(folder).topics():
        if name.startswith(f"{source}."):
            for partition in range(partitions_of(folder, name) or 0):
                data = records_path(folder, name, partition).read_bytes()
                if data:
                    found[name, partition] = data.split(b"\n")[:-1]
    return found


class House:
    """A folder of topics, and a state that runs go on from."""

    def __init__(self, folder: Path, partitions: int = 1, **sink: Any) -> None:
        self.folder = folder
        self.partitions = partitions
        self.sink = sink
        self.lives = 0
        self.open_topics: Callable[[], FileTopics] = lambda: FileTopics(folder)
        self.dead: list[Any] = []

    @property
    def state(self) -> Path:
        found = self.folder / f"state-{self.lives}"
        found.mkdir(parents=True, exist_ok=True)
        return found

    def run(
        self,
        partitions: Sequence[Sequence[Event]],
        topic: Topic = SHOP_EVENTS,
        targets_max: int = 200,
        **run: Any,
    ) -> Result:
        """Run once over records in memory, from the state on."""
        targets = Targets(
            FileTopics(self.folder),
            topic.name,
            partitions=len(partitions),
            retention_h=1,
            targets_max=targets_max,
        )
        parts = [str(part) for part in range(len(partitions))]
        sink = SplitSink(self.open_topics, topic.name, parts, **self.sink)
        self.dead = []
        outputs = Outputs(sink, ListSink(lambda of: [self.dead.extend(one) for one in of]), sink)
        return run_flow(
            lambda source, _outputs, progress: splitting(records(topic, targets.why_not)).dataflow(
                source, outputs, progress
            ),
            partitions,
            recovery=self.state,
            **run,
        )


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_each_record_goes_to_the_topic_of_its_kind_as_it_is(house: House) -> None:
    partitions = [
        [record(kind, number) for number, kind in enumerate(kinds)]
        for kinds in ("ABACABAD", "", "BBA", *[""] * 8, "DA")
    ]
    house.run(partitions, cuts=(3, 1))
    assert split_of(house.folder) == expected(partitions)
    assert partitions_of(house.folder, "shop_events.D") == 12
    assert not house.dead


@pytest.mark.parametrize(
    ("topic", "fields"),
    [
        (SHOP_EVENTS, {"event": "A", "timestamp": "2022-03-22T12:15:00"}),
        (PLATFORM_LOGS, {"action": "A", "commonData": {"time": "2022-03-22T12:15:00Z"}}),
        (USER_TAGS, {"action": "A", "time": "2022-03-22T12:15:00.000Z", "device": 5}),
        (STORE_EVENTS, {"event_type": "A", "event_time": "2022-03-22 12:15:00 UTC"}),
    ],
)
def test_the_kind_stands_where_the_topic_says(
    house: House, topic: Topic, fields: dict[str, Any]
) -> None:
    house.run([[fields, {**fields, topic.kind: "B"}]], topic)
    split = split_of(house.folder, topic.name)
    assert split.keys() == {(f"{topic.name}.A", 0), (f"{topic.name}.B", 0)}
    assert json.loads(split[f"{topic.name}.A", 0][0]) == fields


def test_what_has_no_kind_or_no_time_is_a_dead_letter(house: House) -> None:
    good = [record("A", 1), record("A", 2, timestamp="2101-01-01T00:00:00Z", page_id="?")]
    result = house.run(
        [[good[0], "{", record("A", 3, event=None), record("A", 4, timestamp="soon"), good[1]]]
    )
    assert split_of(house.folder) == expected([good])
    assert [(letter.offset, letter.code) for letter in house.dead] == [
        (1, "not_json"),
        (2, "wrong_field"),
        (3, "bad_time"),
    ]
    (status,) = result.partitions
    assert (status.read, status.used, status.dead) == (5, 2, 3)


@pytest.mark.parametrize("kind", ["", "a b", "a.b", "..", "a/b", "ą", "x" * NAME_MAX, "a\n"])
def test_a_kind_that_cannot_name_a_topic_is_a_dead_letter(house: House, kind: str) -> None:
    house.run([[record("A-_9", 1), record(kind, 2), record("A-_9", 3)]])
    assert {name: len(of) for (name, _), of in split_of(house.folder).items()} == {
        "shop_events.A-_9": 2
    }
    (letter,) = house.dead
    assert letter.offset == 1 and letter.code == "wrong_field"
    assert letter.reason.endswith("cannot name a topic: takes 1 to 237 of a-z A-Z 0-9 _ -")


def test_the_number_of_targets_has_a_limit(house: House) -> None:
    kinds = "ABCDACEB"
    result = house.run([[record(kind, n) for n, kind in enumerate(kinds)]], targets_max=3)
    assert [letter.offset for letter in house.dead] == [3, 6]
    assert house.dead[0].reason == ("kind 'D' would be one too many: shop_events has 3 targets")
    assert result.partitions[0].dead == 2
    # Those that stand are taken by a later run, too.
    more = [record(kind, n) for n, kind in enumerate(kinds + "ADB")]
    house.run([more], targets_max=3)
    assert [letter.offset for letter in house.dead] == [9]
    counts = {name[-1]: len(of) for (name, _), of in split_of(house.folder).items()}
    assert counts == {"A": 3, "B": 3, "C": 2}


class CrashError(Exception):
    """The process is gone."""


class CrashingTopics(FileTopics):
    """Writes so many records more, and no further."""

    left = 0

    def write_each(self, batches: Sequence[PartitionBatch]) -> None:
        for topic, partition, values in batches:
            taken = values[: self.left]
            self.left -= len(taken)
            super().write_each([(topic, partition, taken)])
            if len(taken) < len(values):
                raise CrashError


@given(data=st.data())
# Runs that break off are slow to make smaller, and short as they are.
@settings(max_examples=25, deadline=None, derandomize=True, phases=(Phase.generate,))
def test_every_record_is_written_once_whenever_runs_break_off(data: st.DataObject) -> None:
    kinds = st.text("ABC", max_size=14)
    texts = data.draw(st.lists(kinds, min_size=1, max_size=3), "partitions")
    partitions = [[record(kind, n) for n, kind in enumerate(text)] for text in texts]
    with TemporaryDirectory() as folder:
        house = House(Path(folder), bytes_max=data.draw(st.sampled_from([1, 300, 10_000])))
        for _ in range(data.draw(st.integers(1, 4), "runs that break off")):
            topics = CrashingTopics(house.folder)
            house.open_topics = lambda topics=topics: topics  # type: ignore[misc]
            topics.left = data.draw(st.integers(0, 40), "records until the crash")
            polls = data.draw(st.none() | st.integers(0, 9), "polls until the crash")
            cuts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3), "cuts")
            broken_off(lambda c=cuts, p=polls: house.run(partitions, cuts=c, abort_after=p))
            # Now and then the state is lost as a whole, and all is read again.
            house.lives += data.draw(st.sampled_from([0, 0, 0, 1]), "states lost")
        house.open_topics = lambda: FileTopics(house.folder)
        house.run(partitions)
        assert split_of(house.folder) == expected(partitions)


def broken_off(run: Callable[[], object]) -> None:
    try:
        run()
    except (CrashError, AbortExecution):
        pass
    except Exception as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        if not any(isinstance(cause, CrashError) for cause in causes):
            raise


def refusal(run: Callable[[], object]) -> str:
    with pytest.raises(Exception) as raised:
        run()
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, SinkRefusedError)
    return str(cause)


def test_a_target_that_was_made_anew_is_not_written_to(house: House) -> None:
    house.run([[record("A", 1), record("A", 2)]])
    records_path(house.folder, "shop_events.A", 0).write_bytes(b"")
    text = refusal(lambda: house.run([[record("A", n) for n in range(4)]]))
    assert text == (
        "partition 0 of the topic shop_events.A ends at 0, and 2 records were written to it: it "
        "was made anew. To split shop_events anew from what it holds, delete all topics "
        "shop_events.* and move the flow's recovery folder away"
    )


def test_records_of_which_nobody_knows_which_they_are_stop_a_new_reading(house: House) -> None:
    house.run([[record("A", 1)]])

    class Removed(FileTopics):
        def first_offset(self, topic: str, partition: int) -> int:
            return 700 if (topic, partition) == ("shop_events", 0) else 0

    house.lives += 1
    house.open_topics = lambda: Removed(house.folder)
    text = refusal(lambda: house.run([[record("A", 1)]]))
    assert text.startswith(
        "partition 0 of the topic shop_events.A holds 1 records, and which ones is not known: the "
        "state of this flow is new, and shop_events begins at offset 700. To split"
    )


def test_the_state_of_another_topic_is_not_taken_for_this_one(house: House) -> None:
    house.run([[record("A", 1)]])
    text = refusal(lambda: house.run([[{"action": "A", "time": "2022-03-22"}] * 2], USER_TAGS))
    assert text.startswith("what was kept of this flow is of the topic shop_events, not of user_t")


def test_only_topics_with_kinds_are_split() -> None:
    assert splittable(read_settings({})) == SHOP_EVENTS
    assert splittable(read_settings({"KAFKA_TOPIC": "store_events"})) == STORE_EVENTS
    assert {topic.name for topic in TOPICS.values() if topic.kind} == {
        "shop_events", "platform_logs", "user_tags", "store_events",
    }  # fmt: skip
    for name in ("visits", "orders"):
        with pytest.raises(SettingError) as raised:
            splittable(read_settings({"KAFKA_TOPIC": name}))
        assert str(raised.value) == (
            f"KAFKA_TOPIC={name!r}: split_topics takes a topic whose records say of what kind "
            "they are, one of user_tags, store_events, platform_logs, shop_events"
        )


def test_it_runs_as_wired_and_targets_grow_with_their_source(tmp_path: Path) -> None:
    chosen = read_settings({"FOOTFALL_HOME": str(tmp_path)})
    folder = tmp_path / "topics"
    topics = FileTopics(folder)
    partitions: list[list[bytes]] = []
    for count in (2, 3):
        topics.create("shop_events", count)
        partitions.extend([] for _ in range(count - len(partitions)))
        for partition, values in enumerate(partitions):
            more = [record(kind, partition) for kind in "ABA"]
            topics.write_each([("shop_events", partition, more)])
            values.extend(more)
        run_worker(
            FLOW.name,
            lambda run: FLOW.wire(chosen, run),
            tmp_path,
            once=True,
            steps=FLOW.steps,
        )
        assert split_of(folder) == expected(partitions)
    assert partitions_of(folder, "shop_events.A") == 3


def written_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("shop_events.*/*.jsonl"))


@contextmanager
def workers(home: Path, count: int, *options: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield processes that are killed at the end."""
    with ExitStack() as stack:
        found = []
        for index in range(count):
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.split_child", str(home)),
                    f"--share={index}/{count}",
                    *options,
                ],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "POLARS_MAX_THREADS": "1"},
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            found.append(process)
        yield found


def test_killed_for_real_and_rescaled_each_record_is_there_once(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    topics = FileTopics(tmp_path / "topics")
    topics.create("shop_events", 5)
    partitions: list[list[bytes]] = [[] for _ in range(5)]
    for stage, count in enumerate((1, 3, 2)):
        for partition, values in enumerate(partitions):
            more = [record(chance.choice("ABCD"), stage, n=n) for n in range(3_000)]
            topics.write_each([("shop_events", partition, more)])
            values.extend(more)
        before = written_bytes(tmp_path / "topics")
        with workers(tmp_path, count):
            deadline = time.monotonic() + 60
            while written_bytes(tmp_path / "topics") == before:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            time.sleep(chance.random() * 0.4)
    with workers(tmp_path, 2, "--once") as processes:
        for process in processes:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert split_of(tmp_path / "topics") == expected(partitions), f"seed {seed}"
