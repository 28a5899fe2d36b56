"""A Prometheus that scrapes a home's processes: what the dashboards are tried and drawn on."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRAPE_S = 1
PROMETHEUS = shutil.which("prometheus")
"""None where it is not installed."""
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
    """Run Prometheus in a folder, on the processes of a home; give its address, and end it.

    Raises RuntimeError where it does not start.
    """
    config, address = folder / "prometheus.yml", f"127.0.0.1:{free_port()}"
    config.write_text(_CONFIG.format(scrape_s=SCRAPE_S, targets=home.absolute() / "metrics"))
    command = [
        PROMETHEUS or "prometheus", f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    with running(command, folder / "prometheus.log"):
        ready = f"http://{address}/-/ready"
        wait_until(lambda: answers(ready), f"{ready} answers: see {folder}/prometheus.log")
        yield f"http://{address}"


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[None]:
    """Run a process for a while."""
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
    """Wait until it holds. Raises RuntimeError where it does not in time."""
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


def free_port() -> int:
    """Return a port that is free on loopback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
