"""The shop that every world simulates: its products, brands, categories and prices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from footfall.generator.chance import Bits, Indices, draw, high, low, mix, pick, zipf

PRODUCTS = 50_000
BRANDS = 250
CATEGORIES = 67
CATEGORIES_OF_A_BRAND = 3

_LANE_BRAND, _LANE_CATEGORY, _LANE_PRICE = 101, 102, 103
_FIRST_PRODUCT_ID = 1_000_000
_PRODUCT_ID_STEP = 787
_FIRST_CATEGORY_ID = 2_053_013_552_000_000_000
_CATEGORY_ID_STEP = 8_388_619

_HEADS = "al bel cor dan el fen gal hor il jun kel lor mar nor os pel"
_TAILS = "ano aro bex dia eta gon iva lux meo nis ora pia quin ris tek vio"

_CATEGORY_WORDS = {
    "appliances.kitchen": "blender coffee_machine dishwasher freezer hob hood juicer kettle "
    "microwave mixer oven refrigerator toaster washer",
    "appliances.environment": "air_conditioner heater humidifier vacuum",
    "apparel.clothing": "belt coat dress jacket jeans scarf shirt skirt sock sweater trousers",
    "apparel.shoes": "boots sandals sneakers",
    "auto.accessories": "alarm battery charger radio tyre",
    "computers.peripherals": "keyboard monitor mouse printer router",
    "computers.machines": "desktop laptop memory tablet",
    "electronics.audio": "headphone microphone speaker",
    "electronics.video": "camera projector television",
    "electronics.personal": "clock phone watch",
    "furniture.living_room": "cabinet chair lamp rug sofa",
    "kids.toys": "carriage doll puzzle swing",
    "sport.outdoor": "bicycle ski tennis",
}


@dataclass(frozen=True)
class Shop:
    """Columns of ``PRODUCTS`` rows, the most popular product first."""

    product_id: NDArray[np.int64]
    brand: NDArray[np.int64]
    category: NDArray[np.int64]
    price_cents: NDArray[np.int64]
    brand_names: list[str]
    category_codes: list[str]
    category_ids: list[int]


@lru_cache(maxsize=4)
def shop_of(seed: int) -> Shop:
    """Return the shop of a seed: worlds with the same seed sell the same products."""
    rank = np.arange(PRODUCTS, dtype=np.int64)
    brand = zipf(BRANDS, flatten=10).pick(draw(seed, _LANE_BRAND, rank))
    price = draw(seed, _LANE_PRICE, rank)
    # There are as many products between 2.56 and 5.12 as between 1,310.72 and 2,621.44.
    floor = np.int64(1) << (8 + pick(high(price), 10))
    categories = [
        f"{head}.{word}" for head, words in _CATEGORY_WORDS.items() for word in words.split()
    ]
    return Shop(
        product_id=_FIRST_PRODUCT_ID + _PRODUCT_ID_STEP * rank,
        brand=brand,
        category=_categories(seed, brand, price),
        price_cents=floor + (low(price).astype(np.int64) * floor >> 32),
        brand_names=[head + tail for tail in _TAILS.split() for head in _HEADS.split()][:BRANDS],
        category_codes=categories,
        category_ids=[_FIRST_CATEGORY_ID + _CATEGORY_ID_STEP * n for n in range(CATEGORIES)],
    )


def _categories(seed: int, brand: Indices, chance: Bits) -> Indices:
    """Return the category of each product: one of the few that its brand makes."""
    makes = draw(seed, _LANE_CATEGORY, np.arange(BRANDS * CATEGORIES_OF_A_BRAND))
    made = zipf(CATEGORIES, flatten=40).pick(makes)
    which = brand * CATEGORIES_OF_A_BRAND + pick(low(mix(chance)), CATEGORIES_OF_A_BRAND)
    category: Indices = made[which]
    return category
