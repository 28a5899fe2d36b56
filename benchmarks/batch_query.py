"""The same analytic as one DuckDB query over the files, one thread: the floor of the cost."""

from __future__ import annotations

from pathlib import Path

import duckdb

Answer = dict[str, int]

_STORE = "{event_time: 'VARCHAR', event_type: 'VARCHAR', price: 'DECIMAL(18,2)'}"
_TAGS = (
    "{time: 'VARCHAR', cookie: 'VARCHAR', action: 'VARCHAR', origin: 'VARCHAR', product_info: "
    "'STRUCT(brand_id VARCHAR, category_id VARCHAR, price INTEGER)'}"
)

QUERIES = {
    "minute_buckets": (
        _TAGS,
        """
        SELECT sum(n)::BIGINT AS events, sum(price)::BIGINT AS sum_price FROM (
          SELECT date_trunc('minute', time::TIMESTAMP), action, origin, product_info.brand_id,
                 product_info.category_id, count(*) AS n, sum(product_info.price) AS price
          FROM topic GROUP BY ALL)
        """,
    ),
    "store_metrics": (
        _STORE,
        """
        SELECT sum(n)::BIGINT AS events, sum(viewed)::BIGINT AS nr_items_viewed,
               sum(cart)::BIGINT AS nr_items_put_in_cart, sum(sold)::BIGINT AS nr_items_sold,
               (sum(value) * 100)::BIGINT AS value_items_sold_in_cent FROM (
          SELECT strptime(event_time, '%Y-%m-%d %H:%M:%S UTC'), count(*) AS n,
                 count_if(event_type = 'view') AS viewed, count_if(event_type = 'cart') AS cart,
                 count_if(event_type = 'purchase') AS sold,
                 sum(CASE WHEN event_type = 'purchase' THEN price ELSE 0 END) AS value
          FROM topic GROUP BY ALL)
        """,
    ),
    "user_profiles": (
        _TAGS,
        """
        SELECT sum(n + 0 * len(newest))::BIGINT AS events FROM (
          SELECT cookie, action, count(*) AS n,
                 max((time, origin, product_info), 200) AS newest
          FROM topic GROUP BY ALL)
        """,
    ),
}


def run(flow: str, folder: Path, _home: Path) -> Answer:
    """Return what the query answers."""
    columns, query = QUERIES[flow]
    connection = duckdb.connect(config={"threads": 1})
    files = f"read_json('{folder}/*/*.jsonl', format='newline_delimited', columns={columns})"
    asked = connection.execute(query.replace("FROM topic", f"FROM {files}"))
    names = [column[0] for column in asked.description or ()]
    (row,) = asked.fetchall()
    return {name: int(value or 0) for name, value in zip(names, row, strict=True)}
