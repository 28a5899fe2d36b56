"""``footfall generate``: simulates the shop, or replays a CSV, into topics or over HTTP."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from footfall.cli.errors import FailureError, UsageError, did_you_mean, say
from footfall.cli.generate_send import last_line, push_over_http, push_source
from footfall.cli.home import need_file
from footfall.cli.options import add_world_options, count, moment_ms, rate, seed, share, speed
from footfall.schemas.settings import read_settings
from footfall.schemas.times import parse_time_ms

if TYPE_CHECKING:
    from footfall.generator.shop_records import Disturbances
    from footfall.generator.shop_world import ShopWorld

TAGS_PER_S = 1_000
STORE_EVENTS_PER_S = 200
SHOP_RECORDS_PER_S = 1_000
_SHOP_START_MS = parse_time_ms("2022-03-22T12:00:00Z")


def add_commands(commands: Any) -> None:
    """Add ``generate`` to the command line."""
    generate = commands.add_parser(
        "generate",
        help="simulate the shop, or replay a CSV, into topics or over HTTP",
        description="Send records until all are sent, or until Ctrl-C. Started again it goes on "
        "where it was, each row once (not over --http).",
    )
    worlds = generate.add_subparsers(metavar="WORLD", dest="world", required=True)

    tags = worlds.add_parser("tags", help="views and buys, to topic user_tags or over HTTP")
    _add_pace(tags, TAGS_PER_S)
    tags.add_argument("--total", type=count, metavar="N", help="stop when N are sent")
    add_world_options(tags)
    tags.add_argument(
        "--http", metavar="URL", help="send to a running api, such as http://127.0.0.1:8080"
    )
    tags.add_argument(
        "--clients", type=_clients, metavar="N", default=8, help="connections of --http (8)"
    )
    tags.add_argument(
        "--queries-per-s", type=_queries, metavar="Q", default=0.0,
        help="profiles to ask for meanwhile, with --http (0)",
    )  # fmt: skip
    tags.set_defaults(handler=generate_tags)

    store = worlds.add_parser("store", help="store events, to topic store_events")
    _add_pace(store, STORE_EVENTS_PER_S)
    store.add_argument("--total", type=count, metavar="N", help="stop when N are sent")
    store.add_argument("--seed", type=seed, metavar="S", default=0, help="of the world (0)")
    store.add_argument(
        "--density", type=count, metavar="N", default=STORE_EVENTS_PER_S,
        help=f"events in each second of event time ({STORE_EVENTS_PER_S})",
    )  # fmt: skip
    store.set_defaults(handler=generate_store)

    shop = worlds.add_parser("shop", help="the whole shop, to all four topics at once")
    _add_pace(shop, SHOP_RECORDS_PER_S)
    _add_shop_options(shop)
    shop.set_defaults(handler=generate_shop)

    replay = worlds.add_parser(
        "csv",
        help="replay a CSV of store events",
        description="Replay a CSV of store events: plain, or packed by gzip, bzip2, xz, zstd or "
        "zip. Rows that are added to the file later are sent by the same command; a pipe is read "
        "once.",
    )
    replay.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        help="- for a pipe; INPUT_FILE_NAME where none is given",
    )
    replay.add_argument(
        "--speed", type=speed, metavar="X",
        help="event seconds a real second (PRODUCER_DATA_SEC_PER_REAL_SEC)",
    )  # fmt: skip
    replay.add_argument("--rate", type=rate, metavar="R", help="rows a second, instead")
    _add_fast_and_fresh(replay)
    replay.set_defaults(handler=generate_csv)


def generate_tags(args: argparse.Namespace) -> int:
    """Send tags to their topic, or over HTTP."""
    from footfall.generator.tags import TagWorld

    try:
        world = TagWorld(
            seed=args.seed,
            late=args.late,
            out_of_order=args.out_of_order,
            duplicate=args.duplicates,
            malformed=args.malformed,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.http:
        return push_over_http(world, args, _rate(args, TAGS_PER_S))
    return push_source(world, args, rate_per_s=_rate(args, TAGS_PER_S))


def generate_store(args: argparse.Namespace) -> int:
    """Send simulated store events."""
    from footfall.generator.store import StoreWorld

    try:
        world = StoreWorld(seed=args.seed, events_per_s=args.density)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return push_source(world, args, rate_per_s=_rate(args, STORE_EVENTS_PER_S))


def generate_shop(args: argparse.Namespace) -> int:
    """Send the records of a simulated shop, and write the truth about it."""
    world = shop_world(args)
    if read_settings(os.environ).kafka_topic:
        raise UsageError("KAFKA_TOPIC names one topic, but the shop writes four: unset it")
    if args.truth is not None:
        _write_truth(world, args.truth, without=args.without)
    if args.without is not None and args.without not in world.topics:
        raise UsageError(
            f"--without: the shop has no topic {args.without}"
            f"{did_you_mean(args.without, world.topics)}"
        )
    # The world ends by itself, once all that is under way in it has ended.
    args.total = None
    rate_per_s = _rate(args, SHOP_RECORDS_PER_S)
    return push_source(world, args, rate_per_s=rate_per_s, without=args.without)


def shop_world(args: argparse.Namespace) -> ShopWorld:
    """Return the shop of these options. Raises UsageError where they contradict each other."""
    from footfall.generator.shop_world import ShopWorld

    try:
        return ShopWorld(
            seed=args.seed,
            total=args.total,
            disturbances=_disturbances(args),
            start_ms=args.start,
            records_per_s=args.density,
            users=args.users,
            odd_shapes=args.odd_shapes,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def _disturbances(args: argparse.Namespace) -> Disturbances:
    from footfall.generator.shop_records import Disturbances

    return Disturbances(
        out_of_order=args.out_of_order,
        late=args.late,
        malformed=args.malformed,
        clocks_a_little_off=args.clocks_off,
        clocks_far_off=args.clocks_far_off,
        clocks_ahead=args.clocks_ahead,
        disorder_ms=args.disorder_ms,
    )


def _write_truth(world: ShopWorld, folder: str, *, without: str | None) -> None:
    from footfall.generator.shop_truth import write_truth

    if without is not None:
        raise UsageError("--truth is of all four topics: leave --without out")
    if world.total is None:
        raise UsageError("--truth takes --total: a shop without end has no end to tell of")
    try:
        rows = write_truth(world, Path(folder))
    except OSError as error:
        raise FailureError(
            f"cannot write the truth to {folder}: {error.strerror or error}"
        ) from None
    last_line(f"truth: {len(rows)} tables, {sum(rows.values()):,} rows in {folder}")


def generate_csv(args: argparse.Namespace) -> int:
    """Replay a file of store events."""
    # Before Polars starts its threads: rows in blocks gain nothing from more than one.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from footfall.generator.csv_replay import CsvReplay

    settings = read_settings(os.environ)
    name = args.file or settings.input_file_name
    if not name:
        raise UsageError("generate csv: which FILE? (or set INPUT_FILE_NAME)")
    args.total = None
    factor: float | None = args.speed or settings.producer_data_sec_per_real_sec
    if args.fast or args.rate is not None:
        factor = None
    source = CsvReplay(_csv_path(name))
    return push_source(
        source,
        args,
        rate_per_s=_rate(args, None),
        speed=factor,
        can_resume=not source.is_pipe,
    )


def _csv_path(name: str) -> Path:
    """Return the path of a file or of a pipe."""
    from footfall.streams.archive_files import is_pipe

    path = Path(name)
    if not is_pipe(path):
        return need_file(name)
    if name == "-" and sys.stdin.isatty():
        raise UsageError("generate csv -: nothing is piped in")
    say("what comes out of a pipe is sent once: a push that is broken off cannot go on")
    return path


def _add_pace(parser: argparse.ArgumentParser, default_per_s: int) -> None:
    parser.add_argument(
        "--rate", type=rate, metavar="R", help=f"records a second ({default_per_s:,})"
    )
    _add_fast_and_fresh(parser)


def _add_shop_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--total", type=count, metavar="N", help="records of all topics together; then it ends"
    )
    parser.add_argument("--seed", type=seed, metavar="S", default=0, help="of the shop (0)")
    for option, about in (
        ("--out-of-order", "of records that come later than others of their time"),
        ("--late", "of records that no window can take any more"),
        ("--malformed", "of records that cannot be read"),
        ("--clocks-off", "of users whose clock is a little wrong"),
        ("--clocks-far-off", "of users whose clock is hours or decades wrong"),
        ("--clocks-ahead", "of users whose clock is ahead by up to an hour"),
    ):
        parser.add_argument(
            option, type=share, metavar="SHARE", default=0.0, help=f"share {about} (0 to 0.9)"
        )
    parser.add_argument(
        "--odd-shapes", type=share, metavar="SHARE", default=0.02,
        help="share of users whose ids and times come in other shapes (0.02)",
    )  # fmt: skip
    parser.add_argument(
        "--disorder-ms", type=count, metavar="MS", default=5_000,
        help="how far records may come out of order: the delay of the flows (5,000)",
    )  # fmt: skip
    parser.add_argument(
        "--start", type=moment_ms, metavar="T", default=_SHOP_START_MS,
        help="event time at which the shop opens (2022-03-22T12:00:00)",
    )  # fmt: skip
    parser.add_argument(
        "--density", type=count, metavar="N", default=SHOP_RECORDS_PER_S,
        help=f"records in a second of event time, about ({SHOP_RECORDS_PER_S:,})",
    )  # fmt: skip
    parser.add_argument(
        "--users", type=count, metavar="N", default=50_000, help="who come to the shop (50,000)"
    )
    parser.add_argument(
        "--without", metavar="TOPIC", help="leave out what the shop would send to one topic"
    )
    parser.add_argument(
        "--truth", metavar="DIR",
        help="first write here what every table must hold in the end; takes --total",
    )  # fmt: skip


def _add_fast_and_fresh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fast", action="store_true", help="as fast as it goes, instead")
    parser.add_argument(
        "--fresh", action="store_true", help="from the beginning, whatever was sent before"
    )


def _rate(args: argparse.Namespace, default_per_s: float | None) -> float | None:
    if args.fast and args.rate is not None:
        raise UsageError("--fast and --rate: which of them?")
    if args.fast:
        return None
    return args.rate if args.rate is not None else default_per_s


def _clients(text: str) -> int:
    return count(text, 10_000)


def _queries(text: str) -> float:
    return 0.0 if text.strip() == "0" else rate(text)
