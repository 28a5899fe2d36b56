"""``python -m footfall.infra.kafka``: one broker in the foreground until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from footfall.infra.ending import interrupt_once
from footfall.infra.kafka.broker import PORT, Broker
from footfall.infra.kafka.errors import KafkaServerError
from footfall.infra.kafka.jars import cache_folder, find_jars, find_java

FOLDER = Path(".footfall/kafka")
LOOK_EVERY_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a broker until SIGINT or SIGTERM. Returns 0, or 2 after one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m footfall.infra.kafka",
        description="A real Kafka on loopback, one node, until Ctrl-C. Its data are kept.",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data lie (kafka under FOOTFALL_HOME, .footfall)"
    )
    parser.add_argument("--port", type=_port, default=PORT, help="default: %(default)s; 0: any")
    args = parser.parse_args(argv)
    environ = os.environ
    home = environ.get("FOOTFALL_HOME")
    folder = args.folder or (Path(home) / "kafka" if home else FOLDER)
    os.umask(0o077)
    interrupt_once()
    broker = None
    try:
        java = find_java(environ)
        jars = find_jars(cache_folder(environ), environ, _say)
        broker = Broker(folder, java=java, jars=jars, port=args.port)
        broker.start(_say)
        _say(f"Kafka listens on {broker.bootstrap} (data in {folder}); Ctrl-C ends it")
        _say("for footfall's commands:")
        _say(f"  export KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap}")
        while (died := broker.died()) is None:
            time.sleep(LOOK_EVERY_S)
    except KafkaServerError as error:
        print(f"kafka: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _say("stopping Kafka")
        if broker is not None:
            broker.stop()
        return 0
    broker.kill()
    print(f"kafka: {died} (see {broker.log})", file=sys.stderr)
    return 2


def _port(text: str) -> int:
    if not text.isdigit() or not 0 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"takes a port from 0 to 65535, not {text!r}")
    return int(text)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
