"""``service_health``: requests of each service per minute, failures and durations.

``service_health_rows`` keeps every duration of a (minute, server, operation, topic partition), so
that percentiles over all partitions are durations that were measured. A percentile p of n
durations is the one at rank ceil(p * n / 100) in order of size, counted from 1.

``service_health_anomalies`` compares each minute of a (server, operation) that has REQUESTS_MIN
requests with its trailing hour: its minutes among the 60 before, if they have
TRAILING_REQUESTS_MIN requests.

errors    at least ERRORS_MIN, and their share is more than STANDARD_ERRORS standard errors
          sqrt(r * (1 - r) / requests) above r, which is (errors + 1) / (requests + 2) of the
          trailing hour. Failures come in clumps (somebody types a wrong password several
          times): three standard errors would find many ordinary minutes.
latency   p50 is at least LATENCY_FACTOR times the usual one: the median (by rank) of the p50 of
          the trailing hour's minutes, or LATENCY_MIN_MS if that is more. In a minute with few
          requests a few slow ones move p95; half of all being slow is no accident.

``value`` is the share of errors, or p50 in ms, and ``expected`` is r, or the usual p50.
"""

from __future__ import annotations

from footfall.schemas.tables.clickhouse import PLACE, Table, View

REQUESTS_MIN = 10
TRAILING_REQUESTS_MIN = 100
TRAILING_MS = 3_600_000
ERRORS_MIN = 3
STANDARD_ERRORS = 4
LATENCY_FACTOR = 2
LATENCY_MIN_MS = 5

ROWS = Table(
    name="service_health_rows",
    columns={
        "minute": "DateTime('UTC')",
        "server": "LowCardinality(String)",
        "operation": "LowCardinality(String)",
        **PLACE,
        "requests": "UInt64",
        "errors": "UInt64",
        "durations_ms": "Array(UInt32)",
        "version": "UInt64",
    },
    order_by=("minute", "server", "operation", *PLACE),
    partition_by="toYYYYMMDD(minute)",
    start="minute",
    sums=("requests", "errors"),
)

VIEW = View(
    name="service_health",
    select="""
        SELECT minute, server, operation,
               sum(r.requests) AS requests, sum(r.errors) AS errors,
               arraySort(groupArrayArray(r.durations_ms)) AS sorted,
               sorted[intDiv(50 * length(sorted) + 99, 100)] AS p50_ms,
               sorted[intDiv(95 * length(sorted) + 99, 100)] AS p95_ms,
               sorted[intDiv(99 * length(sorted) + 99, 100)] AS p99_ms
        FROM service_health_rows AS r FINAL
        GROUP BY minute, server, operation
        HAVING requests > 0
    """,
)


def anomalies_in(source: str) -> str:
    """Return the query of anomalies in ``source``.

    ``source`` is the view ``service_health``, or a query that gives some of its rows.
    """
    # Shares and roots are compared as whole numbers, so that the same minutes stand out wherever
    # the query runs.
    return f"""
        WITH
            toInt256(errors) * (before + 2) - toInt256(requests) * failed AS above,
            toInt256(requests) * failed * (before + 2 - failed) AS spread,
            greatest(p50s[intDiv(length(p50s) + 1, 2)], {LATENCY_MIN_MS}) AS usual_ms
        SELECT minute, server, operation, found.1 AS measure,
               found.2 AS value, found.3 AS expected
        FROM (
            SELECT minute, server, operation, requests, errors, p50_ms,
                   toInt256(sum(requests) OVER trailing) AS before,
                   toInt256(sum(errors) OVER trailing) + 1 AS failed,
                   arraySort(groupArray(p50_ms) OVER trailing) AS p50s
            FROM (
                SELECT minute, server, operation, requests, errors, p50_ms,
                       toInt64(toUnixTimestamp(minute)) AS at_s
                FROM {source}
            )
            WINDOW trailing AS (
                PARTITION BY server, operation ORDER BY at_s
                RANGE BETWEEN {TRAILING_MS // 1000} PRECEDING AND 1 PRECEDING
            )
        )
        ARRAY JOIN arrayConcat(
            if(errors >= {ERRORS_MIN} AND above > 0
               AND above * above > {STANDARD_ERRORS**2} * spread,
               [('errors', errors / requests, toFloat64(failed) / toFloat64(before + 2))], []),
            if(p50_ms >= {LATENCY_FACTOR} * usual_ms,
               [('latency', toFloat64(p50_ms), toFloat64(usual_ms))], [])
        ) AS found
        WHERE requests >= {REQUESTS_MIN} AND before >= {TRAILING_REQUESTS_MIN}
    """


ANOMALIES_VIEW = View(name="service_health_anomalies", select=anomalies_in(VIEW.name))
