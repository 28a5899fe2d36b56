"""``footfall demo --once`` with its topics in a real Kafka: every event is accounted for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from footfall.generator.tags import TagWorld
from footfall.schemas.topics import TOPICS
from tests.cli_support import footfall, one_line
from tests.kafka_support import Broker

TAGS = 3_000
ARGUMENTS = ("demo", "--once", "--tags", str(TAGS), "--seed", "3", "--malformed", "0.1")

pytest.importorskip("chdb", reason="chdb is not installed")


def test_the_demo_processes_on_kafka_what_it_sent_there(own_kafka: Broker, tmp_path: Path) -> None:
    for name in TOPICS:
        if own_kafka.partitions(name):
            own_kafka.delete_topic(name)
    home = tmp_path / "home"
    ran = footfall(home, *ARGUMENTS, KAFKA_BOOTSTRAP_SERVERS=own_kafka.bootstrap)
    assert (ran.returncode, ran.stderr) == (0, "")
    world = TagWorld(seed=3, malformed=0.1)
    good = len(world.tags(0, TAGS))
    told = f"{TAGS:,} events read: {good:,} used, {TAGS - good:,} dead"
    for flow in ("minute_buckets", "user_profiles"):
        assert re.search(rf"^{flow} +{told}$", ran.stdout, re.MULTILINE), ran.stdout
    # One of them is too large for a flow, and stands in the topic all the same.
    assert "too_large" in world.kinds(0, TAGS) and "too_large" in ran.stdout
    assert sum(own_kafka.end_offsets("user_tags")) == TAGS
    assert sum(own_kafka.end_offsets("dead_letters")) == 3 * (TAGS - good)
    assert not (home / "topics").exists()


def test_fresh_leaves_a_kafka_alone_and_says_so(own_kafka: Broker, tmp_path: Path) -> None:
    refused = footfall(
        tmp_path / "home", *ARGUMENTS, "--fresh", KAFKA_BOOTSTRAP_SERVERS=own_kafka.bootstrap
    )
    assert refused.returncode == 2
    assert "KAFKA_BOOTSTRAP_SERVERS or TOPICS_URL points elsewhere" in one_line(refused)
