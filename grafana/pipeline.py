"""*Pipeline*: the health of all flows, and how far behind each is."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board
from footfall.grafana.panels import ORANGE, PLAIN, RED, Panel, Steps, lines, number, rows
from footfall.grafana.queries import PromQL, rate

LAG_STEPS: Steps = {60: ORANGE, 300: RED}
FLOW_URL = "/d/footfall-flow?${__url_time_range}&var-flow=${__value.raw}"


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-pipeline",
        "Pipeline",
        "All flows: are they healthy, and where do they stand?",
        [
            ("", [*_health(), _flows()]),
            ("How far behind", _behind()),
            ("What they do", _work()),
            ("What goes wrong", _faults()),
        ],
    )


def _health() -> list[Panel]:
    return [
        number(
            "Flows without a worker",
            "Flows that have fewer workers than they were last started with.",
            PromQL("count(footfall_workers < footfall_workers_wanted) or vector(0)"),
            steps={1: RED},
            runbook="FlowWithoutWorker",
        ),
        number(
            "Records not read",
            "Records of the topics that flows have not read yet, over all flows.",
            PromQL("sum(footfall_lag_records)"),
            runbook="FlowLagGrowing",
        ),
        number(
            "Oldest record not read",
            "Age of the oldest record that some flow has not read, by its append time.",
            PromQL("max(footfall_lag_seconds)"),
            unit="s",
            decimals=1,
            steps=LAG_STEPS,
            runbook="FlowBehind",
        ),
        number(
            "Records per second",
            "Records that all flows together read. A record counts once for each of its flows.",
            PromQL(rate("footfall_records_read_total")),
            unit="cps",
        ),
        number(
            "Records not accounted for",
            "Read less used, filtered, late and dead, over all workers: 0, or records were lost.",
            PromQL(
                "abs(sum(footfall_records_read_total) - sum(footfall_records_used_total)"
                " - sum(footfall_records_filtered_total) - sum(footfall_records_late_total)"
                " - sum(footfall_records_dead_total))"
            ),
            steps={1: RED},
            runbook="AccountingBroken",
        ),
        number(
            "Observer looked",
            "Time since the observer last looked. What it tells of lag and workers is as old.",
            PromQL("time() - max(footfall_observed_timestamp_seconds)"),
            unit="s",
            decimals=0,
            steps={30: ORANGE, 60: RED},
            runbook="ObserverGone",
        ),
    ]


def _flows() -> Panel:
    return rows(
        "Flows",
        "Where each flow stands. The watermark is event time, and that of the partition that is "
        "furthest behind. Click a flow for its partitions.",
        PromQL("sum by (flow) (footfall_workers)", is_table=True),
        PromQL("sum by (flow) (footfall_workers_wanted)", is_table=True),
        PromQL("sum by (flow) (footfall_lag_records)", is_table=True),
        PromQL("max by (flow) (footfall_lag_seconds)", is_table=True),
        PromQL("min by (flow) (footfall_watermark_timestamp_seconds) * 1000", is_table=True),
        PromQL(
            rate("footfall_records_read_total", "flow"), is_table=True
        ),
        PromQL(
            rate("footfall_rows_written_total", "flow"), is_table=True
        ),
        PromQL("sum by (flow) (increase(footfall_records_late_total[1h]))", is_table=True),
        PromQL("sum by (flow) (increase(footfall_records_dead_total[1h]))", is_table=True),
        PromQL(
            "sum by (flow) (max by (flow, worker) "
            "(increase(footfall_worker_starts_observed_total[1h])))",
            is_table=True,
        ),
        columns={
            "flow": "Flow", "A": "Workers", "B": "Wanted", "C": "Lag", "D": "Lag, time",
            "E": "Watermark", "F": "Records/s", "G": "Rows/s", "H": "Late, 1 h", "I": "Dead, 1 h",
            "J": "Restarts, 1 h",
        },
        units={
            "Lag": "short", "Lag, time": "s", "Watermark": "dateTimeAsIso", "Records/s": "short",
            "Rows/s": "short", "Late, 1 h": "short", "Dead, 1 h": "short",
            "Restarts, 1 h": "short",
        },
        steps={
            "Workers": {0: RED, 1: PLAIN},
            "Lag, time": LAG_STEPS,
            "Restarts, 1 h": {1: ORANGE, 4: RED},
        },
        links={"Flow": ("One flow", FLOW_URL)},
        widths={"Flow": 170, "Watermark": 180},
        width=24,
        height=15,
    )  # fmt: skip


def _behind() -> list[Panel]:
    return [
        lines(
            "Lag in records",
            "Records of its topics that each flow has not read, asked of the topics' ends: it "
            "grows also where no worker runs.",
            PromQL("sum by (flow) (footfall_lag_records)", "{{flow}}"),
            runbook="FlowLagGrowing",
        ),
        lines(
            "Lag in time",
            "Age of the oldest record that each flow has not read, by its append time.",
            PromQL("max by (flow) (footfall_lag_seconds)", "{{flow}}"),
            unit="s",
            steps=LAG_STEPS,
            runbook="FlowBehind",
        ),
        lines(
            "Pace of the watermark",
            "Seconds of event time that the slowest partition's watermark moves in a second. At 0 "
            "while records come, it is stuck; above 1, the flow catches up or reads a replay.",
            PromQL(
                "min by (flow) (deriv(footfall_watermark_timestamp_seconds[$__rate_interval]))",
                "{{flow}}",
            ),
            unit="none",
            runbook="WatermarkStuck",
        ),
        lines(
            "Workers that lack",
            "Workers that each flow was last started with, less those that run and report.",
            PromQL(
                "clamp_min(sum by (flow) (footfall_workers_wanted)"
                " - sum by (flow) (footfall_workers), 0)",
                "{{flow}}",
            ),
            steps={1: RED},
            runbook="FlowWorkersMissing",
        ),
    ]


def _work() -> list[Panel]:
    return [
        lines(
            "Records read",
            "Records per second that each flow reads.",
            PromQL(rate("footfall_records_read_total", "flow"), "{{flow}}"),
            unit="cps",
        ),
        lines(
            "Rows written",
            "Rows per second that each flow makes durable. A window that is written while it is "
            "open counts each time.",
            PromQL(rate("footfall_rows_written_total", "flow"), "{{flow}}"),
            unit="cps",
        ),
        lines(
            "Size of the states",
            "What the flows hold of open windows, sessions and requests, at their last snapshots.",
            PromQL("sum by (flow) (footfall_state_bytes)", "{{flow}}"),
            unit="bytes",
            runbook="StateGrowing",
        ),
        lines(
            "CPU",
            "Cores that the workers of each flow use.",
            PromQL(
                rate("footfall_worker_cpu_seconds_total", "flow"),
                "{{flow}}",
            ),
            unit="none",
        ),
    ]


def _faults() -> list[Panel]:
    return [
        lines(
            "Late events",
            "Share of the records read that came after their window's lateness.",
            PromQL(
                _share("footfall_records_late_total"),
                "{{flow}}",
            ),
            unit="percentunit",
            runbook="LateEvents",
        ),
        lines(
            "Dead letters",
            "Share of the records read that can never be processed.",
            PromQL(
                _share("footfall_records_dead_total"),
                "{{flow}}",
            ),
            unit="percentunit",
            runbook="DeadLetters",
        ),
        lines(
            "Writes that failed",
            "Attempts per second to write rows that failed, and are made again.",
            PromQL(
                f"{rate('footfall_sink_errors_total', 'flow')}"
                " or sum by (flow) (footfall_workers) * 0",
                "{{flow}}",
            ),
            unit="cps",
            runbook="SinkFailing",
        ),
        lines(
            "Letters that wait",
            "Records in the topics of dead letters and late events.",
            PromQL("sum by (topic) (footfall_letters_records)", "{{topic}}"),
            runbook="DeadLetters",
        ),
    ]


def _share(counter: str) -> str:
    return f"{rate(counter, 'flow')} / ({rate('footfall_records_read_total', 'flow')} > 0)"
