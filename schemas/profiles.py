"""The profile set: per cookie the newest VIEWs and, apart, the newest BUYs.

A tag in a profile is identified by (time, topic, partition, offset), so writing it again
changes nothing. Tags are kept as the bytes they were sent as.
"""

from __future__ import annotations

from schemas.topics import OFFSET, PARTITION, TOPIC

SET_NAME = "user_profiles"
NUM_TAGS_TO_KEEP_DEFAULT = 200

ORDER = ("time_ms", TOPIC, PARTITION, OFFSET)
"""What identifies a tag of a cookie, and how its tags are ordered."""
COLUMNS = ("cookie", "action", *ORDER, "tag")
"""Columns of the frame a profile store is given: String, String, Int64, String, Int64, Int64,
Binary."""
