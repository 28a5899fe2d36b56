"""``store_events``: one row of the public "eCommerce behavior data" CSV export."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from footfall.schemas.prices import PRICE_MAX

UInt63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Price = Annotated[float, Meta(ge=0, le=PRICE_MAX)]
"""Decimal price of at most two places; 35.79 is 3579 cents (see schemas.prices)."""

EventType = Literal["view", "cart", "remove_from_cart", "purchase"]

CSV_COLUMNS = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)


class StoreEvent(Struct, gc=False, frozen=True):
    """One record of the topic. ``event_time`` is ``2019-10-01 00:00:00 UTC``."""

    event_time: str
    event_type: EventType
    product_id: UInt63
    category_id: UInt63
    price: Price
    user_id: UInt63
    category_code: str | None = None
    brand: str | None = None
    user_session: str | None = None
