"""The same analytics in the usual way: one object per event through Bytewax's operators.

The settings are those that cost the least: lines in batches of 2,000, no waiting on the wall
clock, and a snapshot every 10 s.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import KeyedStream
from bytewax.operators.windowing import EventClock, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

from footfall.schemas.store_events import StoreEvent
from footfall.schemas.topic_files import partition_of
from footfall.schemas.user_tags import UserTag

Answer = dict[str, int]
LINES_A_BATCH = 2_000
KEEP = 200
_ALIGN_TO = datetime(2019, 1, 1, tzinfo=UTC)
_FOREVER = timedelta(days=365_000)


class _Lines(FixedPartitionedSource[bytes, int]):
    def __init__(self, folder: Path) -> None:
        self._files = {path.stem: path for path in folder.glob("*/*.jsonl")}

    def list_parts(self) -> list[str]:
        return sorted(self._files)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        return _Part(self._files[for_part], resume_state or 0)


class _Part(StatefulSourcePartition[bytes, int]):
    def __init__(self, path: Path, position: int) -> None:
        self._file = path.open("rb")
        self._file.seek(position)

    def next_batch(self) -> list[bytes]:
        lines = self._file.readlines(LINES_A_BATCH * 250)
        if not lines:
            raise StopIteration
        return lines

    def snapshot(self) -> int:
        return self._file.tell()


class _Sum(DynamicSink[Any]):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _SumPart:
        return _SumPart(self._answer)


class _SumPart(StatelessSinkPartition[Any]):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def write_batch(self, items: list[Any]) -> None:
        for item in items:
            for name, value in item.items():
                self._answer[name] = self._answer.get(name, 0) + value


def _windows(
    keyed: KeyedStream[Any], time_of: Any, length: timedelta, *, empty: Any, add: Any, merge: Any
) -> Any:
    clock = EventClock(
        ts_getter=time_of,
        # A group comes from all partitions, which are read a batch of each in turn.
        wait_for_system_duration=timedelta(seconds=120),
        # The watermark of a quiet key must not run ahead of a history that is read at once.
        now_getter=lambda: _ALIGN_TO,
        to_system_utc=lambda _time: None,
    )
    windower = TumblingWindower(length=length, align_to=_ALIGN_TO)
    return win.fold_window("window", keyed, clock, windower, empty, add, merge).down


def _minute_buckets(lines: Any) -> Any:
    decode = msgspec.json.Decoder(UserTag).decode
    tags = op.map("decode", lines, decode)
    keyed = op.key_on(
        "group",
        tags,
        lambda tag: (
            f"{tag.action}|{tag.origin}|{tag.product_info.brand_id}|{tag.product_info.category_id}"
        ),
    )
    down = _windows(
        keyed,
        lambda tag: datetime.fromisoformat(tag.time),
        timedelta(minutes=1),
        empty=lambda: (0, 0),
        add=lambda total, tag: (total[0] + 1, total[1] + tag.product_info.price),
        merge=lambda a, b: (a[0] + b[0], a[1] + b[1]),
    )
    return op.map("row", down, lambda item: _named(("events", "sum_price"), item[1][1]))


_STORE_NAMES = (
    "events",
    "nr_items_viewed",
    "nr_items_put_in_cart",
    "nr_items_sold",
    "value_items_sold_in_cent",
)


def _add_event(total: tuple[int, ...], event: StoreEvent) -> tuple[int, ...]:
    sold = event.event_type == "purchase"
    return (
        total[0] + 1,
        total[1] + (event.event_type == "view"),
        total[2] + (event.event_type == "cart"),
        total[3] + sold,
        total[4] + (round(event.price * 100) if sold else 0),
    )


def _store_metrics(lines: Any) -> Any:
    decode = msgspec.json.Decoder(StoreEvent).decode
    events = op.map("decode", lines, decode)
    keyed = op.key_on(
        "partition", events, lambda event: str(partition_of(b"%d" % event.user_id, 10))
    )
    down = _windows(
        keyed,
        lambda event: datetime.fromisoformat(event.event_time[:19]).replace(tzinfo=UTC),
        timedelta(seconds=1),
        empty=lambda: (0, 0, 0, 0, 0),
        add=_add_event,
        merge=lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
    )
    return op.map("row", down, lambda item: _named(_STORE_NAMES, item[1][1]))


def _user_profiles(lines: Any) -> Any:
    decode = msgspec.json.Decoder(UserTag).decode
    tags = op.map("decode", lines, decode)
    keyed = op.key_on("cookie", tags, lambda tag: tag.cookie)

    def keep(newest: Any, tag: UserTag) -> Any:
        newest = newest or {"VIEW": [], "BUY": []}
        kept = newest[tag.action]
        kept.append((tag.time, tag))
        if len(kept) > KEEP:
            kept.sort(key=lambda item: item[0])
            del kept[:-KEEP]
        return newest, newest

    profiles = op.stateful_map("newest", keyed, keep)
    return op.map("row", profiles, lambda _item: {"events": 1})


def _named(names: tuple[str, ...], values: tuple[int, ...]) -> Answer:
    return dict(zip(names, values, strict=True))


FLOWS = {
    "minute_buckets": _minute_buckets,
    "store_metrics": _store_metrics,
    "user_profiles": _user_profiles,
}


def run(flow: str, folder: Path, home: Path) -> Answer:
    """Run the dataflow; return what its rows add up to."""
    answer: Answer = {}
    dataflow = Dataflow(flow)
    lines = op.input("read", dataflow, _Lines(folder))
    op.output("write", FLOWS[flow](lines), _Sum(answer))
    init_db_dir(home, 1)
    run_main(
        dataflow,
        epoch_interval=timedelta(seconds=10),
        recovery_config=RecoveryConfig(str(home), timedelta(0)),
    )
    return answer
