"""A worker of split_topics for tests, which writes all the time and snapshots now and then.

    python -m tests.split_child HOME [--once] [--share I/N]

Topics lie in HOME/topics, the state in HOME.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from footfall.flows.split_topics import FLOW, records
from footfall.schemas.topics import SHOP_EVENTS
from footfall.sinks.split import SplitSink, Targets
from footfall.sinks.topic_files import FileTopics
from footfall.streams.engine import Outputs
from footfall.streams.runner import Run, run_worker
from footfall.streams.source import LATEST, Share
from footfall.streams.testing import ListSink
from footfall.streams.topic_files import FileTopic
from tests.split_support import splitting

WRITE_BYTES = 5_000
SNAPSHOT_EVERY_S = 0.2


def main(home: Path, share: Share, *, once: bool) -> None:
    """Run the worker."""
    folder = home / "topics"

    def wire(run: Run) -> Any:
        topic = FileTopic(
            folder, SHOP_EVENTS.name, end=LATEST if once else None, poll_bytes_max=20_000
        )
        source = run.source(topic)
        targets = Targets(
            FileTopics(folder), topic.name, partitions=topic.partitions(), retention_h=1
        )
        sink = SplitSink(
            lambda: FileTopics(folder), topic.name, source.list_parts(), bytes_max=WRITE_BYTES
        )
        outputs = Outputs(sink, ListSink(lambda _: None), ListSink(lambda _: None))
        return splitting(records(SHOP_EVENTS, targets.why_not)).dataflow(
            source, outputs, run.progress
        )

    run_worker(
        FLOW.name,
        wire,
        home,
        once=once,
        snapshot_every_s=SNAPSHOT_EVERY_S,
        share=share,
        steps=FLOW.steps,
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("home", type=Path)
    options.add_argument("--once", action="store_true")
    options.add_argument("--share", type=lambda text: Share(*map(int, text.split("/"))))
    options.set_defaults(share=Share())
    given = options.parse_args()
    main(given.home, given.share, once=given.once)
