"""A Prometheus that scrapes a home's processes, for tests and pictures of the dashboards."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from footfall.infra.ports import free_port
from footfall.infra.programs import prometheus_command
from footfall.schemas.targets import targets_folder

SCRAPE_S = 1
_START_S_MAX = 240.0
_END_S_MAX = 60.0
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_CONFIG = """
global: {{scrape_interval: {scrape_s}s}}
scrape_configs:
  - job_name: footfall
    file_sd_configs: [{{files: ["{targets}/*.json"], refresh_interval: 1s}}]
"""


@contextmanager
def prometheus(folder: Path, home: Path) -> Iterator[str]:
    """Run Prometheus in a folder, on the processes of a home; yield its address, and end it.

    Raises RuntimeError where it does not start.
    """
    address = f"127.0.0.1:{free_port()}"
    config = _CONFIG.format(scrape_s=SCRAPE_S, targets=targets_folder(home.absolute()))
    (folder / "prometheus.yml").write_text(config)
    with running(prometheus_command("prometheus", folder, address), folder / "prometheus.log"):
        ready = f"http://{address}/-/ready"
        wait_until(lambda: answers(ready), f"{ready} answers: see {folder}/prometheus.log")
        yield f"http://{address}"


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[None]:
    """Run a process until the context ends."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(holds: Callable[[], bool], what: str, within_s: float = _START_S_MAX) -> None:
    """Wait until a condition holds. Raises RuntimeError where it does not in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {within_s:g} s: {what}")
        time.sleep(0.2)


def answers(address: str) -> bool:
    """Tell whether a page can be read."""
    try:
        with _direct.open(address, timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
