"""``footfall run minute_buckets`` with short waits, as a process for tests.

python -m tests.clickhouse_worker_child GIVE_UP_AFTER_S ANSWER_TIMEOUT_S [--once]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from footfall.cli.main import main
from footfall.flows import Reading, minute_buckets, windows
from footfall.schemas.topics import USER_TAGS
from footfall.sinks import clickhouse

SNAPSHOT_EVERY_S = 0.1

if __name__ == "__main__":
    # The one thing that is not as its user would have it: it waits shorter, and so has more
    # inserts.
    clickhouse.ClickHouseTable = partial(  # type: ignore[assignment,misc]
        clickhouse.ClickHouseTable,
        give_up_after_s=float(sys.argv[1]),
        answer_timeout_s=int(sys.argv[2]),
    )
    minutes = windows(replace(minute_buckets.MINUTES, write_every_ms=100), minute_buckets.buckets)
    minute_buckets.FLOW = replace(
        minute_buckets.FLOW,
        reads={USER_TAGS: Reading(minute_buckets.TAGS, minutes)},
        snapshot_every_s=SNAPSHOT_EVERY_S,
    )
    sys.exit(main(["run", "minute_buckets", *sys.argv[3:]]))
