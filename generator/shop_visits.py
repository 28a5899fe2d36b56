"""Actions of users in the simulated shop, one after the other, by their habits."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate

from footfall.generator.shop import CATEGORIES, PRODUCTS, Shop, shop_of
from footfall.generator.shop_records import Recorder, StoreProduct, TagFacts, User
from footfall.generator.shop_services import Services
from footfall.schemas.platform_logs import OK

ACTIONS_MIN, ACTIONS_SPREAD = 4, 24
LISTED_MAX = 12
LINKED_MAX = 4
HOT_FOR_MS = 120_000
"""Milliseconds for which others look at a product that somebody shared."""
HOT_SHARE = 0.3
LEAVES_SHARE = 0.02
"""Share of actions that are followed by a long absence, after which the visit goes on."""
LEAVES_MIN_MS, LEAVES_SPREAD_MS = 1_200_000, 1_500_000
"""Absence: some users come back before the session has timed out, some after it."""
THINKS_MIN_MS, THINKS_SPREAD_MS = 800, 24_000
LOGIN_SHARE = 0.9
MISTYPE_SHARE = 0.12
MISTYPES_MAX = 7
REGISTER_SHARE = 0.05
FORGETS_LOGOUT_SHARE = 0.55
LOGS_IN_AGAIN_SHARE = 0.02
"""Share of actions of a logged-in user that are another login, as on a second device."""

Action = Callable[["Visits", User, int], int]
"""Function that does an action at a moment in ms, and returns the first moment after it."""


class Visits:
    """All that goes on in the shop; users act one at a time, in order of time."""

    def __init__(
        self, seed: int, chance: random.Random, services: Services, recorder: Recorder
    ) -> None:
        self._random = chance.random
        self._services = services
        self._record = recorder
        self._shop = _shop_texts(seed)
        self._hot = 0
        self._hot_until_ms = -1
        self._orders = 0
        self._reviews = 0

    def begin(self, user: User) -> None:
        """Begin a visit of the user."""
        user.actions_left = ACTIONS_MIN + int(self._random() * ACTIONS_SPREAD)

    def act(self, user: User, now_ms: int) -> int | None:
        """Do the next action; return when the one after it is due, or None when the user has
        left."""
        if user.failures_left < 0 and not user.logged_in:
            return self._arrive(user, now_ms)
        if user.failures_left > 0:
            return self._mistype(user, now_ms)
        if user.failures_left == 0 and not user.logged_in:
            user.logged_in = True
            return self._thought(self._log_in(user, now_ms))
        if user.actions_left <= 0:
            if self._random() >= FORGETS_LOGOUT_SHARE:
                self._services.logout(user, now_ms)
            return None
        user.actions_left -= 1
        chance = self._random()
        if chance < LOGS_IN_AGAIN_SHARE:
            done_ms = self._log_in(user, now_ms)
        else:
            table = _HABITS[user.habit]
            action = _ACTIONS[bisect_right(table, int(self._random() * table[-1]))]
            done_ms = action(self, user, now_ms)
        if self._random() < LEAVES_SHARE:
            return done_ms + LEAVES_MIN_MS + int(self._random() * LEAVES_SPREAD_MS)
        return self._thought(done_ms)

    def _thought(self, now_ms: int) -> int:
        chance = self._random()
        return now_ms + THINKS_MIN_MS + int(THINKS_SPREAD_MS * chance * chance)

    def _arrive(self, user: User, now_ms: int) -> int:
        chance = self._random()
        user.failures_left = 0
        if chance < REGISTER_SHARE:
            self._record.event(user, now_ms, "Registering")
        if chance >= LOGIN_SHARE:
            # The browser remembers the user; no login is logged in this visit.
            user.logged_in = True
        elif chance >= LOGIN_SHARE - MISTYPE_SHARE:
            user.failures_left = 1 + int(self._random() * MISTYPES_MAX)
        return now_ms + 1

    def _mistype(self, user: User, now_ms: int) -> int:
        done_ms, _ = self._services.login(user, now_ms, right=False)
        user.failures_left -= 1
        if user.failures_left == 0 and self._random() < 0.3:
            # The user gives up.
            user.logged_in, user.actions_left = True, 0
        return done_ms + 300 + int(self._random() * 7_000)

    def _log_in(self, user: User, now_ms: int) -> int:
        done_ms, _ = self._services.login(user, now_ms, right=True)
        chance = self._random()
        kind = 0 if chance < 0.6 else 1 if chance < 0.85 else 2
        self._record.event(user, done_ms, "LoggingIn", f',"login_type":{kind}', (kind,))
        return done_ms + 1

    def _pick(self) -> int:
        """Return a product by its popularity."""
        ends = self._shop.popularity
        return bisect_right(ends, int(self._random() * ends[-1]))

    def _list_products(self) -> tuple[int, ...]:
        first, ids = self._pick(), self._shop.ids
        count = 3 + int(self._random() * (LISTED_MAX - 2))
        return tuple([ids[(first + 7 * n) % PRODUCTS] for n in range(count)])

    def _browse(self, user: User, now_ms: int) -> int:
        category = int(self._random() * CATEGORIES)
        parent = ""
        if self._random() < 0.7:
            parent = f',"parent_category_id":{self._shop.category_ids[category // 8]}'
        fields = f',"category_id":{self._shop.category_ids[category]}{parent}'
        self._record.event(user, now_ms, "CategoryView", fields)
        return self._services.catalog(user, now_ms, self._list_products())[0]

    def _search(self, user: User, now_ms: int) -> int:
        words = self._shop.words
        text = query = words[int(self._random() * len(words))]
        if self._random() < 0.05:
            # Real searches are in every language, and have quotes in them.
            text = f'caf\\u00e9 \\"{query}\\" \u20ac'
            query = f'caf\u00e9 "{query}" \u20ac'
        self._record.event(user, now_ms, "Searching", f',"query":"{text}"', (query,))
        return self._services.catalog(user, now_ms, self._list_products())[0]

    def _filter(self, user: User, now_ms: int) -> int:
        chance = int(self._random() * 16)
        fields = ""
        for bit, (name, value) in enumerate(_FILTERS):
            if chance >> bit & 1:
                fields += f',"{name}":{value}'
        self._record.event(user, now_ms, "Filtering", fields)
        return self._services.catalog(user, now_ms, self._list_products())[0]

    def _view(self, user: User, now_ms: int) -> int:
        product = self._pick()
        if now_ms < self._hot_until_ms and self._random() < HOT_SHARE:
            product = self._hot
        user.seen = product
        shop = self._shop
        linked: tuple[int, ...] = ()
        if self._random() < 0.6:
            count = 1 + int(self._random() * LINKED_MAX)
            linked = tuple([shop.ids[(product + 11 * n) % PRODUCTS] for n in range(1, count + 1)])
        self._record.event(user, now_ms, "PageVisit", f',"page_id":{shop.ids[product]}')
        self._to_store(user, now_ms, "view", product)
        self._tag(user, now_ms, "VIEW", product)
        return self._services.product(user, now_ms, shop.ids[product], linked)[0]

    def _share(self, user: User, now_ms: int) -> int:
        done_ms = self._view(user, now_ms)
        if now_ms >= self._hot_until_ms:
            self._hot, self._hot_until_ms = user.seen, now_ms + HOT_FOR_MS
        return done_ms

    def _compare(self, user: User, now_ms: int) -> int:
        if user.seen < 0:
            return self._view(user, now_ms)
        other = self._pick()
        kind = int(self._random() * 4)
        ids = self._shop.ids
        fields = f',"first_item_id":{ids[user.seen]},"second_item_id":{ids[other]}'
        fields += f',"comparison_type":{kind}'
        facts = (ids[user.seen], ids[other], kind)
        self._record.event(user, now_ms, "ItemComparison", fields, facts)
        return self._services.product(user, now_ms, ids[other], ())[0]

    def _add_to_cart(self, user: User, now_ms: int) -> int:
        if user.seen < 0 or len(user.cart) >= 8:
            return self._view(user, now_ms)
        done_ms, status = self._services.add_to_cart(user, now_ms, self._shop.ids[user.seen])
        if status == OK:
            user.cart.append(user.seen)
            item = self._shop.ids[user.seen]
            self._record.event(user, now_ms, "CartAdd", f',"item_id":{item}')
            self._to_store(user, now_ms, "cart", user.seen)
            if self._random() < 0.15:
                fields = f',"sale_id":{1 + item % 40},"item_id":{item}'
                facts = (1 + item % 40, item)
                self._record.event(user, done_ms, "SaleParticipation", fields, facts)
        return done_ms + 1

    def _take_from_cart(self, user: User, now_ms: int) -> int:
        if not user.cart:
            return self._view(user, now_ms)
        product = user.cart.pop(int(self._random() * len(user.cart)))
        self._record.event(user, now_ms, "CartDelete", f',"item_id":{self._shop.ids[product]}')
        self._to_store(user, now_ms, "remove_from_cart", product)
        return now_ms + 1

    def _reserve(self, user: User, now_ms: int) -> int:
        if not user.cart:
            return self._add_to_cart(user, now_ms)
        item = self._shop.ids[user.cart[0]]
        if user.reserved:
            done_ms, status = self._services.cancel_reservation(user, now_ms, item)
            user.reserved = status != OK
            return done_ms
        done_ms, status = self._services.reserve(user, now_ms, item)
        user.reserved = status == OK
        return done_ms

    def _buy(self, user: User, now_ms: int) -> int:
        if not user.cart:
            return self._add_to_cart(user, now_ms)
        prices, ids = self._shop.prices, self._shop.ids
        amount_cents = sum(prices[product] for product in user.cart)
        done_ms, status = self._services.buy(user, now_ms, ids[user.cart[0]], amount_cents)
        if status != OK:
            return done_ms
        self._orders += 1
        order = self._orders
        self._record.event(user, done_ms, "Ordering", f',"order_id":{order}')
        if self._random() < 0.2:
            coupon = 1 + int(self._random() * 500)
            fields = f',"coupon_id":{coupon},"order_id":{order}'
            self._record.event(user, done_ms + 1, "PromoUsage", fields, (coupon, order))
        for product in user.cart:
            self._to_store(user, done_ms, "purchase", product)
            self._tag(user, done_ms, "BUY", product)
            done_ms += 1
        user.orders = [*user.orders[-2:], (order, user.cart)]
        user.cart = []
        user.reserved = False
        return done_ms + 2

    def _cancel(self, user: User, now_ms: int) -> int:
        if not user.orders:
            return self._history(user, now_ms)
        order, products = user.orders.pop()
        self._record.event(user, now_ms, "OrderCancel", f',"order_id":{order}')
        amount_cents = sum(self._shop.prices[product] for product in products)
        return self._services.refund(user, now_ms, amount_cents)[0]

    def _return(self, user: User, now_ms: int) -> int:
        if not user.orders:
            return self._history(user, now_ms)
        order, products = user.orders.pop()
        reason = int(self._random() * 5)
        message = ""
        if self._random() < 0.4:
            message = ',"reason_user_message":"it is not what the picture shows"'
        item = self._shop.ids[products[0]]
        fields = f',"item_id":{item},"order_id":{order},"reason_type":{reason}{message}'
        self._record.event(user, now_ms, "ItemReturn", fields, (item, reason))
        return self._services.refund(user, now_ms, self._shop.prices[products[0]])[0]

    def _review(self, user: User, now_ms: int) -> int:
        if user.orders and self._random() < 0.6:
            self._reviews += 1
            item = self._shop.ids[user.orders[-1][1][0]]
            fields = f',"review_id":{self._reviews},"item_id":{item}'
            self._record.event(user, now_ms, "ReviewCreating", fields)
        else:
            number = 1 + int(self._random() * (self._reviews + 1))
            self._record.event(user, now_ms, "ReviewReview", f',"review_id":{number}')
        return now_ms + 1

    def _history(self, user: User, now_ms: int) -> int:
        fields = f',"duration_seconds":{int(self._random() * 900) / 8}'
        self._record.event(user, now_ms, "OrderHistoryViewing", fields)
        return now_ms + 1

    def _recommended(self, user: User, now_ms: int) -> int:
        fields = f',"duration_seconds":{int(self._random() * 400) / 8}'
        self._record.event(user, now_ms, "RecommendationView", fields)
        return now_ms + 1

    def _account(self, user: User, now_ms: int) -> int:
        chance = self._random()
        if chance < 0.4:
            self._record.event(user, now_ms, "ProfileEdit")
        elif chance < 0.7:
            kind = 1 + int(self._random() * 3)
            self._record.event(user, now_ms, "MailingSubscription", f',"subscription_type":{kind}')
        else:
            kind = 1 + int(self._random() * 3)
            fields = f',"support_type":{kind}'
            self._record.event(user, now_ms, "SupportContact", fields, (kind,))
        return now_ms + 1

    def _to_store(self, user: User, now_ms: int, kind: str, product: int) -> None:
        self._record.store(user, now_ms, kind, self._shop.store_products[product])

    def _tag(self, user: User, now_ms: int, action: str, product: int) -> None:
        shop = self._shop
        chance = self._random()
        tag = TagFacts(
            action,
            f"site{int(chance * chance * 1000):03d}.example",
            shop.ids[product],
            shop.brands[product],
            shop.categories[product],
            shop.prices[product],
        )
        self._record.tag(user, now_ms, tag)


_FILTERS = (
    ("price_min", "5.5"),
    ("price_max", "900.0"),
    ("rating_min", "3.5"),
    ("rating_max", "5"),
)

_WEIGHTS: dict[Action, tuple[int, int, int]] = {
    # The three habits are those of users who look around, who buy, and who search.
    Visits._browse: (16, 8, 6),
    Visits._search: (6, 6, 22),
    Visits._filter: (4, 3, 9),
    Visits._view: (34, 24, 24),
    Visits._share: (1, 1, 1),
    Visits._compare: (5, 3, 8),
    Visits._add_to_cart: (6, 16, 7),
    Visits._take_from_cart: (2, 2, 2),
    Visits._reserve: (2, 7, 2),
    Visits._buy: (2, 12, 4),
    Visits._cancel: (1, 2, 1),
    Visits._return: (1, 2, 1),
    Visits._review: (3, 4, 3),
    Visits._history: (2, 3, 2),
    Visits._recommended: (5, 3, 3),
    Visits._account: (4, 4, 4),
}
_ACTIONS: tuple[Action, ...] = tuple(_WEIGHTS)
_HABITS = tuple(list(accumulate(row[habit] for row in _WEIGHTS.values())) for habit in range(3))
HABITS = len(_HABITS)


class _ShopTexts:
    """The shop's columns as plain lists, by the rank of a product, and their texts."""

    def __init__(self, shop: Shop) -> None:
        self.ids: list[int] = shop.product_id.tolist()
        self.prices: list[int] = shop.price_cents.tolist()
        self.brands = [shop.brand_names[brand] for brand in shop.brand.tolist()]
        self.categories = [shop.category_codes[n] for n in shop.category.tolist()]
        self.category_ids = shop.category_ids
        self.words = [code.rpartition(".")[2].replace("_", " ") for code in shop.category_codes]
        self.popularity = list(accumulate(2**32 // (rank + 4) for rank in range(PRODUCTS)))
        numbers = [shop.category_ids[n] for n in shop.category.tolist()]
        self.store_products = [
            StoreProduct(
                product,
                price,
                f'"product_id":{product},"category_id":{number},"category_code":"{code}",'
                f'"brand":"{brand}","price":{price // 100}.{price % 100:02d}',
            )
            for product, number, code, brand, price in zip(
                self.ids, numbers, self.categories, self.brands, self.prices, strict=True
            )
        ]


@lru_cache(maxsize=2)
def _shop_texts(seed: int) -> _ShopTexts:
    return _ShopTexts(shop_of(seed))
