"""The profile set: the newest VIEWs and, separately, the newest BUYs per cookie.

A tag in a profile is identified by (time, topic, partition, offset), so writing it again
changes nothing. Tags are kept as the bytes they were sent as.
"""

from __future__ import annotations

from footfall.schemas.topics import OFFSET, PARTITION, TOPIC

SET_NAME = "user_profiles"
NUM_TAGS_TO_KEEP_DEFAULT = 200

ORDER = ("time_ms", TOPIC, PARTITION, OFFSET)
"""Columns that identify a tag of a cookie, and by which its tags are ordered."""
COLUMNS = ("cookie", "action", *ORDER, "tag")
"""Columns of the frame for a profile store: String, String, Int64, String, Int64, Int64,
Binary."""
