"""Why a record cannot be decoded: each fault has words of its own."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from footfall.schemas.platform_logs import PlatformLog
from footfall.schemas.reasons import UNREADABLE, bytes_reason, field_reason
from footfall.schemas.shop_events import KINDS, ShopEvent
from footfall.schemas.store_events import StoreEvent
from footfall.schemas.user_tags import UserTag
from tests.api_support import encoded, tag
from tests.test_api_collect import LOG, SHOP_EVENT, STORE_EVENT, log

LOGIN = {"event": "LoggingIn", "timestamp": "2022-03-22T12:15:00Z", "user_id": 1}


@pytest.mark.parametrize(
    ("type_", "record", "path", "reason"),
    [
        (UserTag, tag(device="Desktop"), "device", "takes MOBILE, PC or TV, not 'Desktop'"),
        (UserTag, tag(action="view"), "action", "takes BUY or VIEW, not 'view'"),
        (StoreEvent, STORE_EVENT | {"event_type": "steal"}, "event_type", "remove_from_cart or"),
        (ShopEvent, LOGIN | {"login_type": 7}, "login_type", "takes 0, 1 or 2, not 7"),
        (ShopEvent, SHOP_EVENT | {"event": "X"}, "event", "ReviewCreating, "),
        (ShopEvent, SHOP_EVENT | {"event": "X"}, "event", f"{KINDS[-1]}, not 'X'"),
        (UserTag, tag(time=None), "time", "required, and missing"),
        (UserTag, tag(product_info={"price": None}), "product_info.price", "required, and"),
        (UserTag, tag(cookie=""), "cookie", "is empty"),
        (UserTag, tag(cookie=17), "cookie", "expected `str`, got `int`"),
        (StoreEvent, STORE_EVENT | {"price": -1}, "price", "is negative, and must be 0 or more"),
        (StoreEvent, STORE_EVENT | {"user_id": -1}, "user_id", "is negative"),
        (PlatformLog, log(userId={"userId": ""}), "commonData.userId.userId", "is empty"),
        (
            PlatformLog,
            LOG | {"data": {"products": [{"productId": 1}, {"productId": []}]}},
            "data.products[1].productId",
            "got `array`",
        ),
        (UserTag, [1], "", "expected `object`, got `array`"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_takes(
    type_: Any, record: Any, path: str, reason: str
) -> None:
    with pytest.raises(msgspec.ValidationError) as refusal:
        msgspec.json.decode(encoded(record), type=type_)
    found = field_reason(type_, refusal.value)
    assert found[0] == path
    assert reason in found[1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b'\xef\xbb\xbf{"a":1}', "begins with a byte-order mark"),
        ('{"a":1}'.encode("utf-16"), "UTF-16 text"),
        (b'{"a":"\xe9"}', "not UTF-8 (byte 6)"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (rb'{"a":"\ud83d"}', r"half of a surrogate pair, \ud83d: a character"),
        (rb'{"a":"\ud83d"}', "(byte 6)"),
        (rb'{"a":"\uD83D\n"}', r"half of a surrogate pair, \uD83D"),
        (rb'{"a":"x\ud83d\ud83d\ude00"}', "(byte 7)"),
        (rb'{"a":"\ud83d\ude00\ude00"}', r"half of a surrogate pair, \ude00"),
        (rb'{"a":"\\ud83d\ud83d"}', "(byte 13)"),
        (rb'{"\ud83d":1}', "half of a surrogate pair"),
        (rb'{"a":"\\ud83d"', "truncated"),
        (b'{"a":1', "truncated"),
        (b'{"a":NaN}', "NaN and Infinity are not numbers in JSON: send null (byte 5)"),
        (b'{"a":-Infinity}', "NaN and Infinity"),
        (b"nope", "JSON is malformed: invalid character"),
        (b"{} {}", "trailing characters"),
    ],
)
def test_what_is_not_json_is_told_apart(data: bytes, reason: str) -> None:
    with pytest.raises(UNREADABLE) as refusal:
        data.decode()
        msgspec.json.decode(data, type=dict[str, Any])
    assert reason in bytes_reason(data, refusal.value)
