"""``user_tags``: a view or a buy of a product by a cookie."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Id = str | int
"""Id: a string; an integer sent in its place is kept and returned as it came."""

Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Cookie = Annotated[str, Meta(min_length=1, max_length=512)]


class ProductInfo(Struct, gc=False, frozen=True):
    """The product that was viewed or bought; ``price`` in the shop's smallest unit."""

    product_id: Id
    brand_id: Id
    category_id: Id
    price: Int32


class UserTag(Struct, gc=False, frozen=True):
    """One record of the topic. ``time`` is ISO 8601 in UTC with milliseconds."""

    time: str
    cookie: Cookie
    country: str
    device: Literal["PC", "MOBILE", "TV"]
    action: Literal["VIEW", "BUY"]
    origin: str
    product_info: ProductInfo
