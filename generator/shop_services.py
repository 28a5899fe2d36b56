"""The services of the simulated shop: durations of steps, failures, and lost steps.

In some minutes a service is slow, in some a payment provider is overloaded. A bug loses a step now
and then: it happened, but was never logged.
"""

from __future__ import annotations

import random

import numpy as np

from footfall.generator.chance import draw
from footfall.generator.shop_records import Recorder, Step, User
from footfall.schemas.platform_logs import (
    CART,
    CATALOG,
    DECLINED,
    ERROR,
    INVALID,
    LOGIN,
    OK,
    OVERLOADED,
    PAYMENT,
    RESERVATION,
    SERVERS,
    TIMEOUT,
    VALID,
)

PROVIDERS = ("cardline", "payfast", "bankwire", "coinpost")
TRIES_MAX = 3
LOST_STEP_SHARE = 0.004
"""Share of requests that lose one step."""
UNKNOWN_STEP_SHARE = 0.01
"""Share of requests that pass through a service that is not in the catalogue."""
ERROR_SHARE = 0.004
SLOW_MINUTE_SHARE = 0.04
SLOW_FACTOR = 8
OVERLOADED_SHARE = 0.06
"""Share of the spans of OVERLOAD_SPAN_MS in which a provider is overloaded."""
OVERLOAD_SPAN_MS = 180_000

_BASE_MS = {LOGIN: 20, CATALOG: 12, CART: 8, RESERVATION: 25, PAYMENT: 15}
_PROVIDER_MS = 180
_TIMEOUT_MS = 3_000
_LANE_SLOW, _LANE_OVERLOAD = 301, 302
_MEMORY_MAX = 4_096

_NO_DATA = {
    (server, action): Step(server, action)
    for server, actions in {
        LOGIN: ("LoginReq", "LoginDbReq", "LogoutReq"),
        CATALOG: ("CatalogReq", "CatalogDbReq"),
        RESERVATION: ("ReserveDbReq",),
        CART: ("CartDbReq", "CartDbRep"),
        "Search": ("SearchRankReq",),
    }.items()
    for action in actions
}


class Services:
    """Serves requests: each method is one operation, and returns (when it was done, status)."""

    def __init__(self, seed: int, chance: random.Random, recorder: Recorder) -> None:
        self._seed = seed
        self._random = chance.random
        self._recorder = recorder
        self._requests = 0
        self._slow: dict[int, int] = {}
        self._overloaded: dict[int, bool] = {}
        self._steps: list[tuple[int, Step]] = []
        self._now_ms = 0

    def login(self, user: User, now_ms: int, *, right: bool) -> tuple[int, str]:
        """Check a password, right or mistyped."""
        self._begin(now_ms)
        self._plain(LOGIN, "LoginReq", "LoginDbReq")
        status = VALID if right else INVALID
        self._log(Step(LOGIN, "LoginRep", f'{{"status":"{status}"}}', status))
        return self._end(user), status

    def logout(self, user: User, now_ms: int) -> tuple[int, str]:
        """Log out in one step, without an answer."""
        self._begin(now_ms)
        self._plain(LOGIN, "LogoutReq")
        return self._end(user), OK

    def catalog(self, user: User, now_ms: int, products: tuple[int, ...]) -> tuple[int, str]:
        """Show a list of products."""
        self._begin(now_ms)
        self._plain(CATALOG, "CatalogReq", "CatalogDbReq")
        if self._random() < ERROR_SHARE:
            return self._fails(user, CATALOG, "CatalogDbRep", "index not ready")
        form = '{"productId":{"productId":%d}}' if user.id % 3 == 0 else '{"productId":%d}'
        listed = ",".join([form % product for product in products])
        data = f'{{"products":[{listed}]}}'
        self._log(Step(CATALOG, "CatalogDbRep", data, products=products))
        return self._end(user), OK

    def product(
        self, user: User, now_ms: int, product_id: int, linked: tuple[int, ...]
    ) -> tuple[int, str]:
        """Show one product's page, often with products that go with it."""
        self._begin(now_ms)
        data = f'{{"productId":{product_id}}}'
        for action in ("CatalogProductReq", "CatalogProductDbReq"):
            self._log(Step(CATALOG, action, data, product_id=product_id))
        if self._random() < ERROR_SHARE:
            return self._fails(user, CATALOG, "CatalogProductDbRep", "no such row")
        self._log(Step(CATALOG, "CatalogProductDbRep", data, product_id=product_id))
        if linked:
            self._log(Step(CATALOG, "CatalogLinkedProductsDbReq", data, product_id=product_id))
            listed = ",".join([f'{{"productId":{product}}}' for product in linked])
            self._log(
                Step(
                    CATALOG,
                    "CatalogLinkedProductsDbRep",
                    f'{{"products":[{listed}]}}',
                    products=linked,
                )
            )
        return self._end(user), OK

    def add_to_cart(self, user: User, now_ms: int, product_id: int) -> tuple[int, str]:
        """Put one product into the cart."""
        self._begin(now_ms)
        data = f'{{"productId":{product_id}}}'
        self._log(Step(CART, "CartReqAdd", data, product_id=product_id))
        self._log(Step(CART, "CartDbReq", data, product_id=product_id))
        if self._random() < ERROR_SHARE:
            return self._fails(user, CART, "CartDbRep", "lock wait timeout")
        self._plain(CART, "CartDbRep")
        return self._end(user), OK

    def reserve(self, user: User, now_ms: int, product_id: int) -> tuple[int, str]:
        """Reserve what is in the cart."""
        self._begin(now_ms)
        data = f'{{"productId":{product_id}}}'
        self._log(Step(RESERVATION, "ReserveReq", data, product_id=product_id))
        self._plain(RESERVATION, "ReserveDbReq")
        if self._random() < 0.7:
            self._plain(CART, "CartDbReq", "CartDbRep")
        if self._random() < 4 * ERROR_SHARE:
            return self._fails(user, RESERVATION, "ReserveRep", "out of stock")
        self._log(Step(RESERVATION, "ReserveRep", '{"status":"Ok"}', OK))
        return self._end(user), OK

    def cancel_reservation(self, user: User, now_ms: int, product_id: int) -> tuple[int, str]:
        """Cancel a reservation."""
        self._begin(now_ms)
        data = f'{{"productId":{product_id}}}'
        self._log(Step(RESERVATION, "CancelReservationReq", data, product_id=product_id))
        if self._random() < ERROR_SHARE:
            return self._fails(user, RESERVATION, "CancelReservationRep", "no such reservation")
        self._log(Step(RESERVATION, "CancelReservationRep", '{"status":"Ok"}', OK))
        return self._end(user), OK

    def buy(self, user: User, now_ms: int, product_id: int, amount_cents: int) -> tuple[int, str]:
        """Buy; the provider is asked again where it times out or is overloaded."""
        self._begin(now_ms)
        data = f'{{"productId":{product_id},"amount_cents":{amount_cents}}}'
        self._log(Step(PAYMENT, "BuyReq", data, product_id=product_id))
        if user.reserved:
            self._plain(RESERVATION, "ReserveDbReq")
        provider = int(self._random() * len(PROVIDERS))
        for _ in range(TRIES_MAX):
            status = self._pay(provider, amount_cents)
            if status not in (TIMEOUT, OVERLOADED):
                break
        self._answer("BuyRep", status, amount_cents)
        return self._end(user), status

    def refund(self, user: User, now_ms: int, amount_cents: int) -> tuple[int, str]:
        """Give money back; small sums without the provider."""
        self._begin(now_ms)
        self._log(Step(PAYMENT, "RefundReq", f'{{"amount_cents":{amount_cents}}}'))
        status = OK
        if amount_cents > 1_000:
            status = self._pay(int(self._random() * len(PROVIDERS)), amount_cents)
        self._answer("RefundRep", status, amount_cents)
        return self._end(user), status

    def _answer(self, action: str, status: str, amount_cents: int) -> None:
        error = None if status == OK else f"payment: {status}"
        tail = f',"error":"{error}"' if error else ""
        data = f'{{"status":"{status}","amount_cents":{amount_cents}{tail}}}'
        self._log(Step(PAYMENT, action, data, status, error))

    def _pay(self, provider: int, amount_cents: int) -> str:
        name = PROVIDERS[provider]
        data = f'{{"provider":"{name}","amount_cents":{amount_cents}}}'
        self._log(Step(PAYMENT, "PaymentProviderReq", data))
        chance = self._random()
        if self._is_overloaded(provider):
            status = OVERLOADED if chance < 0.6 else TIMEOUT if chance < 0.8 else OK
        elif chance < 0.94:
            status = OK
        else:
            status = DECLINED if chance < 0.97 else TIMEOUT if chance < 0.985 else ERROR
        self._now_ms += _TIMEOUT_MS if status == TIMEOUT else self._latency_ms(_PROVIDER_MS)
        data = f'{{"provider":"{name}","status":"{status}"}}'
        self._log(Step(PAYMENT, "PaymentProviderRep", data, status))
        return status

    def _begin(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._steps = []

    def _plain(self, server: str, *actions: str) -> None:
        for action in actions:
            self._log(_NO_DATA[server, action])

    def _log(self, step: Step) -> None:
        """Log a step when it begins; the first one at the moment of the request."""
        if self._steps:
            base_ms = _BASE_MS.get(step.server, 5) * self._slowness(step.server)
            self._now_ms += self._latency_ms(base_ms)
        self._steps.append((self._now_ms, step))

    def _fails(self, user: User, server: str, action: str, error: str) -> tuple[int, str]:
        data = f'{{"status":"{ERROR}","error":"{error}"}}'
        self._log(Step(server, action, data, ERROR, error))
        return self._end(user), ERROR

    def _end(self, user: User) -> int:
        """Log the request, and return the first moment after it."""
        steps = self._steps
        chance = self._random()
        if chance < LOST_STEP_SHARE:
            del steps[int(chance / LOST_STEP_SHARE * len(steps))]
        elif chance < LOST_STEP_SHARE + UNKNOWN_STEP_SHARE:
            self._plain("Search", "SearchRankReq")
        self._requests += 1
        self._recorder.request(user, self._requests, steps)
        return self._now_ms + 1

    def _latency_ms(self, base_ms: int) -> int:
        """Return a latency, mostly around the base, rarely some ten times as long."""
        chance = self._random()
        square = chance * chance
        rare = square * square * square
        return 1 + int(base_ms * (0.5 + chance + 20 * rare * rare * rare))

    def _slowness(self, server: str) -> int:
        place = SERVERS.index(server) if server in _BASE_MS else len(SERVERS)
        key = self._now_ms // 60_000 * 8 + place
        factor = self._slow.get(key)
        if factor is None:
            slow = self._happens(_LANE_SLOW, key, SLOW_MINUTE_SHARE)
            _forget(self._slow)
            factor = self._slow[key] = SLOW_FACTOR if slow else 1
        return factor

    def _is_overloaded(self, provider: int) -> bool:
        key = self._now_ms // OVERLOAD_SPAN_MS * len(PROVIDERS) + provider
        found = self._overloaded.get(key)
        if found is None:
            _forget(self._overloaded)
            found = self._overloaded[key] = self._happens(_LANE_OVERLOAD, key, OVERLOADED_SHARE)
        return found

    def _happens(self, lane: int, key: int, share: float) -> bool:
        bits = int(draw(self._seed, lane, np.array([key], dtype=np.int64))[0])
        return bits < share * 2**64


def _forget(memory: dict[int, int] | dict[int, bool]) -> None:
    if len(memory) >= _MEMORY_MAX:
        memory.clear()
