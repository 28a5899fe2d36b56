"""The generators of a demo, and a check of options that contradict each other.

By default the simulated shop sends to all topics. A CSV or a world of tags takes its place. With
both a CSV and --shop, live, the file takes the place of the shop's store events alone.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from footfall.cli.errors import UsageError
from footfall.cli.home import Home
from footfall.cli.options import shop_arguments, world_arguments
from footfall.schemas.topics import STORE_EVENTS

if TYPE_CHECKING:
    from footfall.generator.shop_world import ShopWorld

Generators = list[tuple[str, tuple[str, ...]]]
"""(name, arguments of ``footfall generate``)"""


def check_sends(args: argparse.Namespace) -> None:
    """Raise UsageError where options contradict each other."""
    is_shop = args.shop or args.events is not None or args.truth is not None
    if args.no_generator and (args.csv or args.tags is not None):
        raise UsageError("--no-generator sends nothing: leave --csv and --tags out")
    if args.no_generator and is_shop:
        raise UsageError("--no-generator sends nothing: leave --shop, --events and --truth out")
    if is_shop and args.tags is not None:
        raise UsageError("--tags sends a world of tags, --shop a whole shop: which of them?")
    if args.csv and is_shop and (args.once or args.truth):
        raise UsageError("--csv sends store events, and so does --shop: which of them?")
    if args.truth and args.events is None:
        raise UsageError("--truth takes --events N: a shop without end has no end to tell of")
    if args.once and is_shop and args.events is None:
        raise UsageError("--once --shop: how many records? --events N")
    if args.tags is None and args.duplicates:
        raise UsageError("--duplicates is for --tags: the shop sends nothing twice")
    if args.tags is not None and (args.clocks_off or args.clocks_far_off or args.clocks_ahead):
        raise UsageError("wrong clocks (--clocks-...) are for the shop: leave --tags out")


def sent_once(args: argparse.Namespace) -> Generators:
    """Return the generators that ``--once`` runs to their end. Raises UsageError without any."""
    if args.events is not None:
        return [("shop", _shop(args))]
    found: Generators = []
    if args.csv:
        found.append(("csv", ("csv", args.csv, "--fast")))
    if args.tags is not None:
        found.append(("tags", _tags(args)))
    if not found:
        raise UsageError("--once: send what? --shop --events N, or --csv FILE, --tags N, or both")
    return found


def sent_live(args: argparse.Namespace) -> Generators:
    """Return the generators that run beside the flows until they are stopped or end."""
    if args.no_generator:
        return []
    csv: Generators = []
    if args.csv:
        speed = ("--speed", str(args.speed)) if args.speed is not None else ()
        csv.append(("csv", ("csv", args.csv, *speed)))
    if args.tags is not None:
        store: Generators = [("store", ("store", "--seed", str(args.seed)))]
        return [("tags", _tags(args)), *(csv or store)]
    if csv and not args.shop and args.events is None:
        return csv
    without = ("--without", STORE_EVENTS.name) if csv else ()
    return [("shop", (*_shop(args), *without)), *csv]


def check_shop(generators: Generators, home: Home, *, is_fresh: bool) -> None:
    """Raise UsageError for a shop that cannot be, or where another shop was sent before."""
    from footfall.cli.generate import shop_world
    from footfall.cli.main import build_parser

    for name, arguments in generators:
        if name == "shop":
            world = shop_world(build_parser().parse_args(["generate", *arguments]))
            if not is_fresh:
                _check_progress(world, home)


def _check_progress(world: ShopWorld, home: Home) -> None:
    import msgspec

    from footfall.generator.progress import Progress

    try:
        text = (home.generator / f"{world.name}.json").read_bytes()
        sent = msgspec.json.decode(text, type=Progress)
    except (OSError, msgspec.MsgspecError):
        # Nothing was sent yet; other errors are reported by the generator.
        return
    if sent.identity != world.identity:
        raise UsageError(
            f"{home.path} holds {sent.rows:,} records of a shop with the same seed and other "
            "options: begin anew with --fresh, or set FOOTFALL_HOME to another folder"
        )


def _shop(args: argparse.Namespace) -> tuple[str, ...]:
    total = ("--total", str(args.events)) if args.events is not None else ()
    truth = ("--truth", args.truth) if args.truth else ()
    return ("shop", *shop_arguments(args), *total, *truth, *_pace(args))


def _tags(args: argparse.Namespace) -> tuple[str, ...]:
    return ("tags", *world_arguments(args), "--total", str(args.tags), *_pace(args))


def _pace(args: argparse.Namespace) -> tuple[str, ...]:
    if args.rate is not None:
        return ("--rate", str(args.rate))
    return ("--fast",) if args.once else ()
