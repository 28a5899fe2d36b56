"""The figures over Kafka as Markdown."""

from __future__ import annotations

import math

from footfall.benchmarks.kafka import FILES, Case, Figures, Found
from footfall.benchmarks.kafka_faust import PARTITIONS
from footfall.benchmarks.kafka_idle import FLOW, OVER_S, Idle
from footfall.benchmarks.kafka_job import BYTEWAX, FRAME, PLAIN, TABLES
from footfall.benchmarks.measure import Figure
from footfall.benchmarks.report import speed
from footfall.benchmarks.tables import sink_of

TITLE = "## From Kafka"
READERS = {PLAIN: "confluent-kafka, `consume(10_000)`", BYTEWAX: "Bytewax's `KafkaSource`"}


def not_measured(why: str) -> list[str]:
    """Return the section for a run without Kafka."""
    return [TITLE, "", f"Not measured in this run: {why}.", ""]


def section(found: Found, files: dict[str, Figure]) -> list[str]:
    """Return the lines of the section; ``files`` has each flow's figure from files to a frame."""
    flows = {
        flow: {Case(FRAME, FILES): files[flow], **figures} for flow, figures in found.flows.items()
    }
    return [
        TITLE,
        "",
        f"The same records from Apache Kafka {found.kafka_version} (KRaft, one node, on this "
        f"machine), {found.events:,} of each topic, read to the end as found. CPU is that of the "
        "worker's own processes, by the kernel's account; the broker and ClickHouse are processes "
        "of their own, SQLite is within the worker. All of them share the cores, which bounds "
        "events/s. *To a frame* drops the rows where the sink would write them; *times files* "
        "is against the same from topic files; a dash stands where a run was too short beside its "
        "start-up to tell a speed. Every run's rows added up to those of the files.",
        "",
        *flow_table(flows),
        "",
        "How it grows with the partitions:",
        "",
        *(f"- {line}" for flow, figures in flows.items() for line in growth(flow, figures)),
        "",
        "What reading alone costs, with the settings that each comes with and nothing done with "
        "the records:",
        "",
        *reader_table(found.topics),
        "",
        *(_idle(found.idle) if found.idle else []),
        *(_faust(found.faust) if found.faust else []),
    ]


def _idle(found: Idle) -> list[str]:
    return [
        f"A worker of `{FLOW}` over {found.partitions} partitions in which nothing happens has "
        f"{found.threads} threads, {found.descriptors} files and connections and "
        f"{found.memory_mb:.0f} MB, and takes {found.core_percent:.1f} % of a core, over "
        f"{OVER_S:g} s.",
        "",
    ]


def _faust(figure: Figure) -> list[str]:
    return [
        "`login_alerts` runs on Faust here, which answers each failed login when it comes: "
        f"{figure.cpu_s_per_million:.1f} CPU s per million records of `platform_logs` and "
        f"{speed(figure)} events/s from {PARTITIONS} partitions with one process, "
        f"{figure.memory_mb:.0f} MB, measured on {figure.events:,} records. The same decision in "
        "batches stands among all flows above.",
        "",
    ]


def flow_table(flows: dict[str, Figures]) -> list[str]:
    """Return a table with one row per case, those to a frame first."""
    lines = [
        "| flow | from | to | CPU s per million | times files | events/s | peak MB |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for flow, figures in flows.items():
        for case in sorted(figures, key=lambda case: case.what != FRAME):
            figure = figures[case]
            ratio = figure.cpu_s_per_million / figures[Case(case.what, FILES)].cpu_s_per_million
            sink = "a frame" if case.what == FRAME else sink_of(flow)
            lines.append(
                f"| `{flow}` | {_source(case)} | {sink} | {figure.cpu_s_per_million:.2f} | "
                f"{ratio:.2f} | {speed(figure)} | {figure.memory_mb:.0f} |"
            )
    return lines


def reader_table(topics: dict[str, Figures]) -> list[str]:
    """Return a table with one row per reader and number of partitions."""
    lines = [
        "| topic | who | partitions | CPU s per million | events/s | peak MB |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for topic, figures in topics.items():
        for case, figure in figures.items():
            lines.append(
                f"| `{topic}` | {READERS[case.what]} | {case.partitions} | "
                f"{figure.cpu_s_per_million:.2f} | {speed(figure)} | "
                f"{figure.memory_mb:.0f} |"
            )
    return lines


def growth(flow: str, figures: Figures) -> list[str]:
    """Return one sentence for the runs to a frame and one for those to the sink."""
    return [_growth(flow, figures, what) for what in (FRAME, TABLES)]


def _growth(flow: str, figures: Figures, what: str) -> str:
    cases = [case for case in figures if case.what == what and case.partitions != FILES]
    alone = sorted((case for case in cases if case.processes == 1), key=lambda c: c.partitions)
    several = [case for case in cases if case.processes > 1]
    text = f"`{flow}` to {'a frame' if what == FRAME else sink_of(flow)}"
    if alone:
        cpu = " / ".join(f"{figures[case].cpu_s_per_million:.2f}" for case in alone)
        rate = " / ".join(speed(figures[case]) for case in alone)
        counts = " / ".join(str(case.partitions) for case in alone)
        text += f": {counts} partitions, {cpu} CPU s per million, {rate} events/s"
    for case in several:
        one = figures.get(Case(what, case.partitions))
        if one is not None:
            cpu_times = figures[case].cpu_s_per_million / one.cpu_s_per_million
            rate_times = figures[case].events_per_s / one.events_per_s
            text += (
                f"; {case.processes} processes on {case.partitions}: {cpu_times:.2f} times the "
                "CPU of one"
            )
            if not math.isnan(rate_times):
                text += f", {rate_times:.2f} times its events/s"
    return text


def _source(case: Case) -> str:
    if case.partitions == FILES:
        return "topic files"
    text = f"Kafka, {case.partitions} partition{'s' if case.partitions > 1 else ''}"
    return text + (f", {case.processes} processes" if case.processes > 1 else "")
