"""The names of the metrics that the HTTP side gives to Prometheus."""

from __future__ import annotations

REQUESTS = "footfall_api_requests"
"""Counter by route and status."""
REQUEST_SECONDS = "footfall_api_request_seconds"
"""Histogram by route."""
RECORDS_WRITTEN = "footfall_api_records_written"
"""Counter by topic: records acknowledged to a client."""
RECORDS_WAITING = "footfall_api_records_waiting"
"""Gauge: records that wait for the commit that makes them durable."""
ANSWER_DIFFERENCES = "footfall_api_answer_differences"
"""Counter by route: where a debug answer was not what the client expected."""
