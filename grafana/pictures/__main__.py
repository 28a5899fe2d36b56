"""Draw every dashboard into docs/dashboards: ``make dashboard-pictures``.

Needs Prometheus, npm and Chromium. A demo runs for some minutes first, so that there is something
to see.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from footfall.grafana.__main__ import FOLDER
from footfall.grafana.ask import Asker, Range, Sources, panels_of
from footfall.grafana.scraped import answers, prometheus, running, wait_until
from footfall.infra.ports import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "pictures"
ANSWERS = BUILD / "answers.json"
PICTURES = ROOT / "docs" / "dashboards"
PROFILE = "user_profiles/nobody?time_range=2022-03-22T12:00:00.000_2022-03-22T13:00:00.000"
CHOSEN = {"flow": "store_metrics"}
SCRAPE_S = 10
"""The scrape interval of the data source, so that rates cover the same time as in Grafana."""
WIDTH = 1464
SCALE = 0.8
HEIGHT_MAX = 4_000
"""Tables that are out of sight are not drawn."""
OVERVIEW_PX = 762
"""Height of the part of Pipeline that is on the README's first screen."""
QUALITY = 60
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DEMO = (
    "--rate", "300", "--density", "10", "--disorder", "0.05", "--late", "0.002",
    "--malformed", "0.003", "--no-watch",
)  # fmt: skip
"""A demo in which thirty seconds of event time pass per second."""
BUNDLE = (
    "--bundle", "--outfile=draw.js", "--jsx=automatic", "--minify", "--log-level=error",
    '--define:process.env.NODE_ENV="production"', "--loader:.svg=dataurl", "--loader:.ttf=empty",
)  # fmt: skip


def main() -> None:
    """Draw all dashboards, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="dashboards: pipeline, shop_now, ...")
    parser.add_argument("--minutes", type=float, default=10, help="that the demo runs first (10)")
    parser.add_argument("--again", action="store_true", help="draw the last answers once more")
    args = parser.parse_args()
    paths = [
        path for path in sorted(FOLDER.glob("*.json")) if path.stem in args.names or not args.names
    ]
    _bundle()
    if args.again:
        found = json.loads(ANSWERS.read_text())
    else:
        with _watched(args.minutes) as sources:
            found = {
                path.stem: _answers(json.loads(path.read_text()), sources, args.minutes)
                for path in paths
            }
        ANSWERS.write_text(json.dumps(found))
    PICTURES.mkdir(exist_ok=True)
    _draw(
        {
            path.stem: {"dashboard": json.loads(path.read_text()), **found[path.stem]}
            for path in paths
        }
    )


@contextmanager
def _watched(minutes: float) -> Iterator[Sources]:
    folder, port = BUILD / "demo", free_port()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    home, page = folder / "home", f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "footfall.cli.main", "demo", "--port", str(port), *DEMO]
    with (
        running(["env", f"FOOTFALL_HOME={home}", *command], folder / "demo.log"),
        prometheus(folder, home) as address,
    ):
        wait_until(lambda: answers(f"{page}/healthz"), f"{page} answers: see {folder}/demo.log")
        print(f"a demo runs for {minutes:g} min: {page}", flush=True)
        for _ in range(int(minutes * 60)):
            # Requests give the panels of the api something to show.
            for path in ("", "live.json", PROFILE):
                answers(f"{page}/{path}")
            time.sleep(1)
        yield _sources(home, address)


def _sources(home: Path, address: str) -> Sources:
    """Return the data sources of a demo that runs on ``home``."""
    clickhouse = home / "clickhouse"
    server = (clickhouse / "address").read_text().strip().removeprefix("http://")
    password = quote((clickhouse / "password").read_text().strip(), safe="")
    return Sources(address, f"http://default:{password}@{server}/footfall")


def _bundle() -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "draw.jsx", "page.html"):
        shutil.copy(HERE / name, BUILD)
    if not (BUILD / "node_modules" / ".package-lock.json").exists():
        print("fetching Grafana's components: 416 MB", flush=True)
        npm = "npm install --no-audit --no-fund --ignore-scripts --no-package-lock"
        subprocess.run([*npm.split(), "--loglevel=error"], cwd=BUILD, check=True)
    subprocess.run(["node_modules/.bin/esbuild", "draw.jsx", *BUNDLE], cwd=BUILD, check=True)


def _answers(dashboard: dict[str, Any], sources: Sources, minutes: float) -> dict[str, Any]:
    """Return the answers to all queries: tables over event time, others over the last minutes."""
    now_s = int(time.time())
    metrics = Range(now_s - int(minutes * 60), now_s, 10, SCRAPE_S)
    newest = sources.sql("SELECT toUnixTimestamp(max(bucket)) + 60 FROM minute_buckets_rows")
    newest_s = int(newest["data"][0][0])
    tables = Range(newest_s - 2 * 3_600, newest_s, 60)
    frames, ranges = {}, {}
    for panel in panels_of(dashboard):
        over = tables if "rawSql" in panel["targets"][0] else metrics
        asker = Asker(sources, over, CHOSEN)
        asker.choose(dashboard)
        frames[panel["id"]] = [frame for _, found in asker.ask(panel) for frame in found]
        ranges[panel["id"]] = [over.from_s, over.to_s]
    return {"frames": frames, "ranges": ranges}


def _draw(pages: dict[str, Any]) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, drawn in pages.items():
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT_MAX})
            page.on("pageerror", lambda error: print(f"  {error}"))
            page.goto((BUILD / "page.html").as_uri())
            page.evaluate("drawn => drawDashboard(drawn)", drawn)
            page.wait_for_function("window.isDrawn")
            height = page.evaluate("document.getElementById('dashboard').offsetHeight") + 24
            cuts = {name: height} | ({"overview": OVERVIEW_PX} if name == "pipeline" else {})
            for cut, pixels in cuts.items():
                _save(page, PICTURES / f"{cut}.webp", pixels)
            page.close()
        browser.close()


def _save(page: Any, path: Path, height: int) -> None:
    """Write the upper part of a page as WebP, half as large as the PNG of Playwright."""
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": SCALE}
    picture = page.context.new_cdp_session(page).send(
        "Page.captureScreenshot",
        {"format": "webp", "quality": QUALITY, "clip": clip, "captureBeyondViewport": True},
    )
    path.write_bytes(b64decode(picture["data"]))
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
