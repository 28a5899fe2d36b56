"""*Shop now*: revenue, sales, views, conversion, and the products that are viewed."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from footfall.grafana.board import board, chosen
from footfall.grafana.newest import newest
from footfall.grafana.panels import Panel, lines, number, ranking, rows
from footfall.grafana.queries import SQL
from footfall.schemas.shop_events import REASON_TYPES
from footfall.schemas.tables.shop_events import VISIT_WITHIN_S, named

PER_MINUTE = "($__interval_s / 60)"
LATER = f"{VISIT_WITHIN_S} SECOND"
SOLD = "sumIf(b.sum_price, action = 'BUY') / 100"
SALES = "sumIf(b.count, action = 'BUY')"
VIEWS = "sumIf(b.count, action = 'VIEW')"


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return board(
        "footfall-shop",
        "Shop now",
        "Revenue, sales, views, conversion and top products, by event time.",
        [
            ("", [newest("footfall-shop", "bucket", "minute_buckets_rows"), *_totals()]),
            ("By minute", _by_minute()),
            ("What is bought and looked at", _products()),
            ("How customers behave", _behaviour()),
        ],
        refresh="1m",
        variables=[
            chosen(
                "source",
                "Topic of the views",
                SQL("SELECT DISTINCT source FROM product_user_views_rows ORDER BY source"),
                several=True,
            )
        ],
    )


def _total(title: str, about: str, of: str, unit: str = "short", **more: object) -> Panel:
    query = SQL(f"SELECT {of} AS value FROM minute_buckets AS b WHERE $__timeFilter(bucket)", True)
    return number(title, about, query, unit=unit, **more)  # type: ignore[arg-type]


def _totals() -> list[Panel]:
    return [
        _total("Revenue", "What was bought in the range, in whole units of money.", SOLD),
        _total("Sales", "Items bought in the range (BUY tags).", SALES, width=3),
        _total("Views", "Items viewed in the range (VIEW tags).", VIEWS, width=3),
        _total(
            "Conversion",
            "Items bought for each item viewed.",
            f"{SALES} / {VIEWS}",
            unit="percentunit",
            decimals=1,
            runbook="ConversionCollapsed",
        ),
        _total(
            "Price of a sale", "Revenue for each item bought.", f"{SOLD} / {SALES}", decimals=2
        ),
    ]


def _by_minute() -> list[Panel]:
    def of(figures: str) -> SQL:
        return SQL(f"""
            SELECT $__timeInterval(bucket) AS time, {figures}
            FROM minute_buckets AS b WHERE $__timeFilter(bucket)
            GROUP BY time ORDER BY time
        """)

    return [
        lines(
            "Revenue per minute",
            "In whole units of money. The last minute is not over.",
            of(f"{SOLD} / {PER_MINUTE} AS revenue"),
            bars=True,
            interval="1m",
            runbook="RevenueCollapsed",
        ),
        lines(
            "Views and sales per minute",
            "Items viewed and bought.",
            of(f"{VIEWS} / {PER_MINUTE} AS views, {SALES} / {PER_MINUTE} AS sales"),
            interval="1m",
            colours={"views": "blue", "sales": "green"},
        ),
        lines(
            "Conversion",
            "Items bought for each item viewed.",
            of(f"{SALES} / {VIEWS} AS conversion"),
            unit="percentunit",
            interval="1m",
            runbook="ConversionCollapsed",
        ),
        lines(
            "Views by topic, per minute",
            "Views of products that each topic tells of: tags, the shop's rows, services' logs.",
            SQL(f"""
                SELECT $__timeInterval(minute) AS time, source,
                sum(v.views) / {PER_MINUTE} AS views
                FROM product_views_per_minute AS v
                WHERE $__timeFilter(minute) AND $__conditionalAll(source IN ($source), $source)
                GROUP BY time, source ORDER BY time
            """),
            named="${__field.labels.source}",
            interval="1m",
        ),
    ]


def _products() -> list[Panel]:
    def top(column: str) -> SQL:
        return SQL(
            f"""
            SELECT {column}, {SOLD} AS revenue
            FROM minute_buckets AS b WHERE $__timeFilter(bucket)
            GROUP BY {column} ORDER BY revenue DESC LIMIT 10
            """,
            True,
        )

    return [
        rows(
            "Top products",
            "The most viewed products, and how often they were listed.",
            SQL(
                """
                SELECT product_id AS product, sum(v.views) AS viewed, sum(v.impressions) AS listed
                FROM product_views_per_minute AS v
                WHERE $__timeFilter(minute) AND $__conditionalAll(source IN ($source), $source)
                GROUP BY product ORDER BY viewed DESC, product LIMIT 10
                """,
                True,
            ),
            bars=["viewed"],
            width=8,
            height=10,
        ),
        *(
            ranking(f"Revenue by {name}", about, top(column), width=width, height=10)
            for name, column, width, about in (
                ("brand", "brand_id", 5, "The ten brands that sell most."),
                ("category", "category_id", 6, "The ten categories that sell most."),
                ("origin", "origin", 5, "The ten origins that sell most."),
            )
        ),
    ]  # fmt: skip


def _behaviour() -> list[Panel]:
    return [
        lines(
            "Steps to an order, users per hour",
            "Users who visited a page, searched, added to the cart and ordered in an hour: each "
            "step by itself, whatever the user did before.",
            SQL("""
                SELECT hour AS time, f.visited AS visited, f.searched AS searched,
                f.added_to_cart AS "added to cart", f.ordered AS ordered
                FROM shop_funnel_by_hour AS f
                WHERE hour >= toStartOfHour($__fromTime) AND hour <= $__toTime ORDER BY time
            """),
            bars=True,
            width=10,
            colours={
                "visited": "blue", "searched": "purple", "added to cart": "orange",
                "ordered": "green",
            },
        ),
        rows(
            "Searches without a visit",
            "Queries after which nobody visited a page within five minutes.",
            SQL(
                f"""
                SELECT query, count() AS searches
                FROM (SELECT * FROM shop_searching WHERE $__timeFilter(time)) AS s
                ASOF LEFT JOIN (SELECT user_id, time, 1 AS found FROM shop_page_visit
                WHERE time >= $__fromTime AND time <= $__toTime + INTERVAL {LATER}) AS v
                ON s.user_id = v.user_id AND s.time <= v.time
                WHERE ifNull(v.found, 0) = 0 OR v.time > s.time + INTERVAL {LATER}
                GROUP BY query ORDER BY searches DESC, query LIMIT 10
                """,
                True,
            ),
            bars=["searches"],
            width=7,
        ),
        rows(
            "Returns by reason",
            "Items sent back in the range.",
            SQL(
                f"""
                SELECT {named("reason_type", REASON_TYPES)} AS reason,
                count() AS returns
                FROM shop_item_return WHERE $__timeFilter(time)
                GROUP BY reason ORDER BY returns DESC
                """,
                True,
            ),
            bars=["returns"],
            width=7,
        ),
    ]  # fmt: skip
