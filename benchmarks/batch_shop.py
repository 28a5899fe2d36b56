"""Analytics of the simulated shop as one DuckDB query over the files, one thread.

It needs no order and keeps no state. The query's conditions leave out records that cannot be read,
and late ones, which are from before the shop opened.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from footfall.benchmarks.folders import topic_in
from footfall.benchmarks.inputs import SHOP
from footfall.schemas.times import iso_ms
from footfall.schemas.topics import PLATFORM_LOGS, STORE_EVENTS, USER_TAGS

Answer = dict[str, int]

_LOGS = (
    "{action: 'VARCHAR', "
    "commonData: 'STRUCT(time VARCHAR, userId JSON, requestId JSON, serverName VARCHAR)', "
    "data: 'STRUCT(status VARCHAR, productId JSON, products STRUCT(productId JSON)[])', "
    # Only broken records have this field, which is nested deeper than flows read.
    "extra: 'JSON'}"
)
_STORE = "{event_time: 'VARCHAR', event_type: 'VARCHAR', product_id: 'JSON', user_id: 'JSON'}"
_TAGS = (
    "{time: 'VARCHAR', cookie: 'VARCHAR', action: 'VARCHAR', "
    "product_info: 'STRUCT(product_id JSON)'}"
)
_GOOD_LOG = (
    "extra IS NULL AND "
    "json_type(commonData.userId) IN ('UBIGINT', 'BIGINT', 'VARCHAR', 'OBJECT') AND "
    "TRY_CAST(commonData.time AS TIMESTAMP) BETWEEN TIMESTAMP '1970-01-01' AND "
    "TIMESTAMP '2089-01-01'"
)
_ID = "coalesce(json_extract_string({0}, '$.{1}'), json_extract_string({0}, '$'))"
_USER = _ID.format("commonData.userId", "userId")
_COUNTED = "sum(viewed)::BIGINT AS views, sum(shown)::BIGINT AS impressions"

_LOG_VIEWS = f"""
    SELECT {_COUNTED} FROM (
      SELECT date_trunc('minute', moment), product, who, sum(viewed) AS viewed, sum(shown) AS shown
      FROM (
        SELECT TRY_CAST(commonData.time AS TIMESTAMP) AS moment,
               {_ID.format("data.productId", "productId")} AS product, {_USER} AS who,
               1 AS viewed, 0 AS shown
        FROM topic
        WHERE action = 'CatalogProductReq' AND data.productId IS NOT NULL AND {_GOOD_LOG}
        UNION ALL
        SELECT TRY_CAST(commonData.time AS TIMESTAMP),
               unnest(list_transform(data.products,
                      lambda one: {_ID.format("one.productId", "productId")})),
               {_USER}, 0, 1
        FROM topic WHERE action = 'CatalogDbRep' AND {_GOOD_LOG})
      WHERE moment >= TIMESTAMP '{iso_ms(SHOP.start_ms)}' GROUP BY ALL)
"""
_STORE_VIEWS = f"""
    SELECT {_COUNTED} FROM (
      SELECT event_time[:16], product_id, user_id, count(*) AS viewed, 0 AS shown
      FROM topic WHERE event_type = 'view' GROUP BY ALL)
"""
_TAG_VIEWS = f"""
    SELECT {_COUNTED} FROM (
      SELECT date_trunc('minute', time::TIMESTAMP), product_info.product_id, cookie,
             count(*) AS viewed, 0 AS shown
      FROM topic WHERE action = 'VIEW' GROUP BY ALL)
"""
_FAILED_LOGINS = f"""
    SELECT count(*)::BIGINT AS failures FROM (
      SELECT {_USER}, TRY_CAST(commonData.time AS TIMESTAMP)
      FROM topic WHERE action = 'LoginRep' AND data.status = 'Invalid' AND {_GOOD_LOG})
"""

QUERIES = {
    ("failed_logins", PLATFORM_LOGS.name): (_LOGS, _FAILED_LOGINS),
    ("product_views", PLATFORM_LOGS.name): (_LOGS, _LOG_VIEWS),
    ("product_views", STORE_EVENTS.name): (_STORE, _STORE_VIEWS),
    ("product_views", USER_TAGS.name): (_TAGS, _TAG_VIEWS),
}
"""The columns that are read, and the query, by flow and topic."""


def run(flow: str, folder: Path, _home: Path) -> Answer:
    """Return what the query answers."""
    columns, query = QUERIES[flow, topic_in(folder)]
    connection = duckdb.connect(config={"threads": 1})
    files = (
        f"read_json('{folder}/*/*.jsonl', format='newline_delimited', ignore_errors=true, "
        f"columns={columns})"
    )
    asked = connection.execute(query.replace("FROM topic", f"FROM {files}"))
    names = [column[0] for column in asked.description or ()]
    (row,) = asked.fetchall()
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}
