"""*One flow*: its partitions, its state, and the time that each part of its work takes."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board, chosen
from footfall.grafana.panels import ORANGE, RED, Panel, lines, number, rows
from footfall.grafana.pipeline import LAG_STEPS
from footfall.grafana.queries import PromQL, quantile, rate, summed

WATERMARK = "footfall_watermark_timestamp_seconds"
PARTITION = "topic, partition"
NAMED = "{{topic}}/{{partition}}"
NONE = 'sum(footfall_workers{flow="$flow"}) * 0'
"""A line at 0, where a counter without a first event has no series."""


def dashboard() -> Dashboard:
    """Return the dashboard."""
    lag = of("footfall_lag_records")
    return board(
        "footfall-flow",
        "One flow",
        "One flow: its partitions, its state, and where its time goes.",
        [
            ("", _health()),
            ("Partitions", _partitions()),
            ("Records and rows", _records()),
            ("Time and memory", _costs()),
        ],
        variables=[
            chosen("flow", "Flow", PromQL("label_values(footfall_lag_records, flow)")),
            chosen("topic", "Topic", PromQL(f"label_values({lag}, topic)"), several=True),
            chosen(
                "partition", "Partition", PromQL(f"label_values({lag}, partition)"), several=True
            ),
        ],
    )


def _health() -> list[Panel]:
    return [
        number(
            "Workers",
            "Workers of the flow whose process runs and reports.",
            PromQL(summed(of("footfall_workers"))),
            steps={0: RED, 1: "green"},
            runbook="FlowWithoutWorker",
        ),
        number(
            "Records not read",
            "Records of the chosen partitions that the flow has not read.",
            PromQL(summed(at("footfall_lag_records"))),
            runbook="FlowLagGrowing",
        ),
        number(
            "Oldest record not read",
            "Age of the oldest record that the flow has not read, by its append time.",
            PromQL(summed(at("footfall_lag_seconds"), how="max")),
            unit="s",
            decimals=1,
            steps=LAG_STEPS,
            runbook="FlowBehind",
        ),
        number(
            "Watermark",
            "Event time before which the partition that is furthest behind expects no event.",
            PromQL(f"{summed(at(WATERMARK), how='min')} * 1000"),
            unit="dateTimeAsIso",
            runbook="WatermarkStuck",
        ),
        number(
            "Restarts, 1 h",
            "Starts of the flow's workers within an hour, after their first one.",
            PromQL(
                "sum(max by (worker) "
                f"(increase({of('footfall_worker_starts_observed_total')}[1h])))"
            ),
            decimals=0,
            steps={1: ORANGE, 4: RED},
            runbook="RestartLoop",
        ),
        number(
            "Running for",
            "Time since the youngest of the flow's processes began.",
            PromQL(f"time() - max({of('footfall_worker_start_time_seconds')})"),
            unit="s",
        ),
    ]


def _partitions() -> list[Panel]:
    return [
        rows(
            "Where each partition stands",
            "The margin is the number of records that retention removes before one that the flow "
            "has not read; lost ones were removed before it read them.",
            PromQL(summed(at("footfall_next_offset"), PARTITION), is_table=True),
            PromQL(summed(at("footfall_lag_records"), PARTITION), is_table=True),
            PromQL(summed(at("footfall_lag_seconds"), PARTITION, "max"), is_table=True),
            PromQL(
                summed(at("footfall_retention_margin_records"), PARTITION),
                is_table=True,
            ),
            PromQL(summed(at("footfall_lost_records"), PARTITION), is_table=True),
            PromQL(
                f"{summed(at(WATERMARK), PARTITION, 'min')} * 1000",
                is_table=True,
            ),
            PromQL(summed(at("footfall_state_bytes"), PARTITION), is_table=True),
            columns={
                "topic": "Topic", "partition": "Partition", "A": "Next offset", "B": "Lag",
                "C": "Lag, time", "D": "Margin", "E": "Lost", "F": "Watermark", "G": "State",
            },
            units={
                "Lag": "short", "Lag, time": "s", "Margin": "short", "Lost": "short",
                "Watermark": "dateTimeAsIso", "State": "bytes",
            },
            steps={"Lag, time": LAG_STEPS, "Lost": {1: RED}},
            widths={"Topic": 140, "Partition": 80, "Watermark": 170},
            runbook="RetentionClose",
            width=24,
            height=11,
        ),
        lines(
            "Lag in records",
            "Records that the flow has not read, by partition.",
            PromQL(summed(at("footfall_lag_records"), PARTITION), NAMED),
            runbook="FlowLagGrowing",
        ),
        lines(
            "Lag in time",
            "Age of the oldest record that the flow has not read, by partition.",
            PromQL(summed(at("footfall_lag_seconds"), PARTITION, "max"), NAMED),
            unit="s",
            steps=LAG_STEPS,
            runbook="FlowBehind",
        ),
        lines(
            "Watermark",
            "Event time before which no event is expected, by partition. One that stays behind "
            "the others has no records, or a clock that is wrong.",
            PromQL(
                f"{at(WATERMARK)} * 1000", NAMED
            ),
            unit="time:MM-DD HH:mm",
            minimum=None,
            runbook="WatermarkStuck",
        ),
        lines(
            "Records read",
            "Records per second, by partition: a hot key is a partition above all others.",
            PromQL(
                rate(at("footfall_records_read_total"), PARTITION),
                NAMED,
            ),
            unit="cps",
        ),
    ]  # fmt: skip


def _records() -> list[Panel]:
    return [
        lines(
            "What became of the records",
            "Records per second. Read is the sum of the four others.",
            *[
                PromQL(rate(at(f"footfall_records_{name}_total")), name)
                for name in ("used", "filtered", "late", "dead")
            ],
            unit="cps",
            stacked=True,
            colours={"used": "green", "filtered": "blue", "late": "orange", "dead": "red"},
        ),
        lines(
            "Dead letters by reason",
            "Records per second that can never be processed; docs/metrics.md has the reasons.",
            PromQL(
                rate(at("footfall_records_dead_total"), "reason"),
                "{{reason}}",
            ),
            unit="cps",
            runbook="DeadLetters",
        ),
        lines(
            "Rows written",
            "Rows per second that are durable, by table.",
            PromQL(
                rate(of("footfall_rows_written_total"), "table"),
                "{{table}}",
            ),
            unit="cps",
        ),
        lines(
            "Writes that failed",
            "Attempts per second that failed, by server and reason, and those made again.",
            PromQL(
                f"{rate(of('footfall_sink_errors_total'), 'server, code')} or on () {NONE}",
                "failed {{server}} {{code}}",
            ),
            PromQL(
                f"{rate(of('footfall_sink_retries_total'), 'server')} or on () {NONE}",
                "again {{server}}",
            ),
            unit="cps",
            runbook="SinkFailing",
        ),
        lines(
            "Held in the state",
            "Open windows, sessions, requests and the like, at the last snapshots.",
            PromQL(
                f"{summed(at('footfall_state_items'), 'kind')} or on () {NONE}",
                "{{kind}}",
            ),
            runbook="StateGrowing",
        ),
        lines(
            "Size of the state",
            "By topic, at the last snapshots. It is written whole at each snapshot.",
            PromQL(summed(at("footfall_state_bytes"), "topic"), "{{topic}}"),
            unit="bytes",
            runbook="StateGrowing",
        ),
    ]


def _costs() -> list[Panel]:
    parts = ("decode", "compute", "batch", "write", "snapshot")
    return [
        lines(
            "Time of each part, median",
            "Half of the polls, writes and snapshots took no longer.",
            *[
                PromQL(quantile(0.5, of(f"footfall_{part}_seconds_bucket")), part)
                for part in parts
            ],
            unit="s",
        ),
        lines(
            "Time of each part, 95th percentile",
            "One in twenty took longer. A write that takes long holds up the flow.",
            *[
                PromQL(quantile(0.95, of(f"footfall_{part}_seconds_bucket")), part)
                for part in parts
            ],
            unit="s",
        ),
        lines(
            "Busy with",
            "Seconds per second that the flow spends in each part.",
            *[
                PromQL(rate(of(f"footfall_{part}_seconds_sum")), part)
                for part in ("decode", "compute", "write", "snapshot")
            ],
            unit="none",
            stacked=True,
        ),
        lines(
            "Freshness",
            "Age of the newest record when a reader first sees it in the store, over an hour; "
            "it is measured about twice a minute while records come.",
            *[
                PromQL(_freshness(share), name)
                for share, name in ((0.5, "median"), (0.95, "95 %"))
            ],
            unit="s",
            steps={3: ORANGE, 5: RED},
            runbook="RowsStale",
        ),
        lines(
            "CPU",
            "Cores that each worker uses.",
            PromQL(
                rate(of("footfall_worker_cpu_seconds_total"), "worker"),
                "{{worker}}",
            ),
            unit="none",
        ),
        lines(
            "Memory",
            "Resident memory of each worker.",
            PromQL(summed(of("footfall_worker_memory_bytes"), "worker"), "{{worker}}"),
            unit="bytes",
        ),
    ]


def _freshness(share: float) -> str:
    buckets = of("footfall_freshness_seconds_bucket")
    return f"histogram_quantile({share}, sum by (le) (increase({buckets}[1h])))"


def at(metric: str) -> str:
    """Return the series of a metric for the chosen partitions."""
    return f'{metric}{{flow="$flow", topic=~"$topic", partition=~"$partition"}}'


def of(metric: str) -> str:
    """Return the series of a metric for the whole flow."""
    return f'{metric}{{flow="$flow"}}'
