"""Write grafana/dashboards/*.json: ``python -m footfall.grafana``."""

from __future__ import annotations

from pathlib import Path

from footfall.grafana import (
    api,
    customers_online,
    one_flow,
    pipeline,
    requests,
    servers,
    shop_now,
)
from footfall.grafana.board import text_of

FOLDER = Path(__file__).resolve().parent / "dashboards"
MODULES = (pipeline, one_flow, shop_now, customers_online, requests, api, servers)


def files() -> dict[Path, str]:
    """Return the text of each dashboard's file, by path."""
    return {
        FOLDER / f"{module.__name__.rpartition('.')[2]}.json": text_of(module.dashboard())
        for module in MODULES
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
