"""*Servers*: topics, stores, and the processes themselves."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board
from footfall.grafana.panels import ORANGE, PLAIN, RED, Panel, lines, number, rows
from footfall.grafana.queries import SQL, PromQL, quantile, rate


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-servers",
        "Servers",
        "What the flows stand on: topics, stores, and the processes themselves.",
        [
            ("", _totals()),
            ("Topics", _topics()),
            ("Stores", _stores()),
            ("Processes", _processes()),
        ],
    )


def _totals() -> list[Panel]:
    return [
        number(
            "Targets down",
            "Processes of Footfall that Prometheus cannot scrape.",
            PromQL('count(up{job="footfall"} == 0) or vector(0)'),
            steps={1: RED},
            runbook="FlowWithoutWorker",
        ),
        number(
            "Records appended per second",
            "To all topics.",
            PromQL(rate("footfall_topic_end_offset")),
            unit="cps",
        ),
        number(
            "Writes that failed per second",
            "Attempts to write rows that failed, and are made again.",
            PromQL(f"{rate('footfall_sink_errors_total')} or vector(0)"),
            unit="cps",
            steps={0.01: ORANGE, 1: RED},
            runbook="SinkFailing",
        ),
        number(
            "Looks that failed",
            "Looks of the observer that failed in the last hour: topics or home did not answer.",
            PromQL("sum(increase(footfall_observer_errors_total[1h]))"),
            decimals=0,
            steps={1: ORANGE},
            runbook="ObserverBlind",
        ),
        number(
            "Parts in ClickHouse",
            "Active parts of the fullest partition of a table: from 1,000 on, inserts wait.",
            SQL(
                """
                SELECT max(parts) AS value FROM (
                SELECT count() AS parts FROM system.parts
                WHERE active AND database = currentDatabase() GROUP BY table, partition)
                """,
                True,
            ),
            steps={300: ORANGE, 1_000: RED},
            runbook="",
        ),
        number(
            "Tables on disk",
            "Size of all tables in ClickHouse.",
            SQL(
                "SELECT sum(bytes_on_disk) AS value FROM system.parts"
                " WHERE active AND database = currentDatabase()",
                True,
            ),
            unit="bytes",
        ),
    ]


def _topics() -> list[Panel]:
    return [
        lines(
            "Records appended",
            "Records per second, by topic.",
            PromQL(rate("footfall_topic_end_offset", "topic"), "{{topic}}"),
            unit="cps",
        ),
        lines(
            "Records kept",
            "Records between the oldest one left and the end, by topic.",
            PromQL(
                "sum by (topic) (footfall_topic_end_offset - footfall_topic_oldest_offset)",
                "{{topic}}",
            ),
        ),
        lines(
            "Distance from retention",
            "Records that retention removes before one that a flow has not read, in the partition "
            "where they are fewest, by flow.",
            PromQL("min by (flow) (footfall_retention_margin_records)", "{{flow}}"),
            runbook="RetentionClose",
        ),
        lines(
            "Records lost to retention",
            "Records that retention removed before a flow read them.",
            PromQL("sum by (flow) (footfall_lost_records)", "{{flow}}"),
            steps={1: RED},
            runbook="RecordsLost",
        ),
    ]


def _stores() -> list[Panel]:
    return [
        lines(
            "Time of a write, 95th percentile",
            "Until rows are durable, with all tries, by flow: the store of each is in its line of "
            "the README.",
            PromQL(quantile(0.95, "footfall_write_seconds_bucket", "flow"), "{{flow}}"),
            unit="s",
            runbook="WritesSlow",
        ),
        lines(
            "Failed and repeated writes",
            "Attempts per second, by server and reason.",
            PromQL(
                f"{rate('footfall_sink_errors_total', 'server, code')} or on () vector(0)",
                "failed {{server}} {{code}}",
            ),
            PromQL(
                f"{rate('footfall_sink_retries_total', 'server')} or on () vector(0)",
                "again {{server}}",
            ),
            unit="cps",
            runbook="ServerNotAnswering",
        ),
        rows(
            "Tables in ClickHouse",
            "Active parts, rows (older versions included) and size of each table.",
            SQL(
                """
                SELECT table, count() AS parts, sum(rows) AS rows, sum(bytes_on_disk) AS size,
                sum(data_uncompressed_bytes) / sum(data_compressed_bytes) AS packed,
                max(modification_time) AS written
                FROM system.parts WHERE active AND database = currentDatabase()
                GROUP BY table ORDER BY size DESC
                """,
                True,
            ),
            units={"rows": "short", "size": "bytes", "packed": "none"},
            bars=["size"],
            runbook="",
            width=24,
            height=10,
        ),
    ]


def _processes() -> list[Panel]:
    return [
        lines(
            "CPU",
            "Cores that the workers of each flow use.",
            PromQL(
                rate("footfall_worker_cpu_seconds_total", "flow"),
                "{{flow}}",
            ),
            unit="none",
            stacked=True,
        ),
        lines(
            "Memory",
            "Resident memory of the workers of each flow.",
            PromQL("sum by (flow) (footfall_worker_memory_bytes)", "{{flow}}"),
            unit="bytes",
            stacked=True,
        ),
        rows(
            "Targets",
            "The processes that Prometheus scrapes, and how long a scrape takes.",
            PromQL('max by (instance) (up{job="footfall"})', is_table=True),
            PromQL('max by (instance) (scrape_duration_seconds{job="footfall"})', is_table=True),
            PromQL('max by (instance) (scrape_samples_scraped{job="footfall"})', is_table=True),
            columns={"instance": "Process", "A": "Up", "B": "Scrape", "C": "Samples"},
            units={"Up": "bool_yes_no", "Scrape": "s"},
            steps={"Up": {0: RED, 1: PLAIN}},
            width=24,
        ),
        lines(
            "Free disk of the home",
            "Share of the disk on which FOOTFALL_HOME lies that is free.",
            PromQL("min(footfall_home_free_bytes / footfall_home_size_bytes)", "free"),
            unit="percentunit",
            maximum=1,
            runbook="HomeDiskNearlyFull",
            width=24,
        ),
    ]
