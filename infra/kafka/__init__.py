"""A real Apache Kafka (KRaft, one node) on loopback, from Maven Central's jars, on Java 17.

    python -m footfall.infra.kafka --folder .footfall/kafka --port 9092

The jars are fetched once with Maven, as its own configuration says, and kept in a cache folder.
A broker is one process on one folder: what it acknowledged is there again after ``kill -9``.
"""

from footfall.infra.kafka.broker import Broker
from footfall.infra.kafka.errors import KafkaServerError

__all__ = ["Broker", "KafkaServerError"]
