"""Measured runs within this process: their answers, without the start-up of a process."""

from __future__ import annotations

import gc
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from footfall.benchmarks import child, kafka_job
from footfall.benchmarks.measure import Run


def in_this_process(_name: str, modules: Sequence[Sequence[str]], _folder: Path) -> Run:
    """Run modules in this process, as a benchmarks.measure.Launch."""
    answer: Counter[str] = Counter()
    begun_s, cpu_s = time.monotonic(), time.process_time()
    for module, *arguments in modules:
        printed = io.StringIO()
        with redirect_stdout(printed):
            if module == "footfall.benchmarks.kafka_job":
                kafka_job.main(*arguments)
            else:
                assert module == "footfall.benchmarks.child"
                variant, flow, folder, home = arguments
                child.main(variant, flow, Path(folder), Path(home))
        # The worker, whose life is its process's, keeps all that is there by then from collection.
        gc.unfreeze()
        answer.update(json.loads(printed.getvalue().splitlines()[-1]))
    return Run(time.process_time() - cpu_s, time.monotonic() - begun_s, 1.0, dict(answer))
