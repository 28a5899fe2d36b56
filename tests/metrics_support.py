"""Scrapes of real processes for tests: found by their target files, read as Prometheus does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from footfall.schemas.metrics import Metric
from footfall.schemas.targets import targets_folder

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Values by (name of the sample, its labels)."""

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def targets(home: Path) -> dict[str, str]:
    """Return the address of each target, by its instance, as Prometheus reads the files."""
    found = {}
    for path in targets_folder(home).glob("*.json"):
        for group in json.loads(path.read_text()):
            found[group["labels"]["instance"]] = group["targets"][0]
    return found


def get(address: str, path: str) -> tuple[int, str]:
    """Return status and text of an answer."""
    try:
        with _direct.open(f"http://{address}{path}", timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(address: str) -> Samples:
    """Return all samples of a process."""
    status, text = get(address, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples: Samples, metric: Metric, **labels: str) -> float:
    """Return the sum of a counter or gauge over all of its series that have these labels."""
    return sum(
        value
        for (name, of), value in samples.items()
        if name == metric.exposed and labels.items() <= dict(of).items()
    )


def names_and_labels(text: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the type of each metric, and the names of its series' labels."""
    found = {}
    for family in text_string_to_metric_families(text):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name] = (family.type, frozenset(labels))
    return found


def expected(metrics: tuple[Metric, ...]) -> Mapping[str, tuple[str, frozenset[str]]]:
    """Return the same for the list in schemas.metrics."""
    return {one.name: (one.kind, frozenset(one.labels)) for one in metrics}
