"""A worker process for tests: minute_buckets from a folder of topics to files of rows."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from flows import minute_buckets
from sinks.buffered import BufferedSink
from streams.engine import Outputs
from streams.runner import Run, WorkerError, run_worker
from streams.source import LATEST, TopicSource
from streams.topic_files import FileTopic


class RowsFile:
    """Appends rows, or letters, as JSON lines; each write is one append."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, items: Sequence[Any]) -> None:
        if "--stuck" in sys.argv:
            time.sleep(60)
        lines = b""
        for item in items:
            if isinstance(item, pl.DataFrame):
                lines += item.write_ndjson().encode()
            else:
                lines += b"".join(msgspec.json.encode(letter) + b"\n" for letter in item)
        os.write(self._file, lines)

    def close(self) -> None:
        pass


def main(home: Path, *, once: bool) -> None:
    def sink(name: str) -> BufferedSink[Any]:
        return BufferedSink(lambda: RowsFile(home / name), rows_max=2_000)

    def wire(run: Run) -> Any:
        topic = FileTopic(
            home / "topics", "user_tags", end=LATEST if once else None, poll_bytes_max=100_000
        )
        outputs = Outputs(sink("rows"), sink("dead"), sink("late"))
        return minute_buckets.build(TopicSource(topic, run.stop), outputs, run.progress)

    try:
        run_worker("minute_buckets", wire, home, once=once, snapshot_every_s=0.1)
    except (WorkerError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), once="--once" in sys.argv)
