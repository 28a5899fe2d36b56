"""Values on the command line, and the options that several commands share."""

from __future__ import annotations

import argparse

from footfall.cli.errors import UsageError
from footfall.schemas.times import BadTimeError, parse_time_ms

_PORT_MAX = 65_535


def add_world_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the tag world."""
    parser.add_argument("--seed", type=seed, metavar="S", default=0, help="of the worlds (0)")
    for option, about in (
        ("--late", "older than any window is corrected for"),
        ("--out-of-order", "some seconds old"),
        ("--duplicates", "sent a second time"),
        ("--malformed", "that cannot be read"),
    ):
        parser.add_argument(
            option,
            type=share,
            metavar="SHARE",
            default=0.0,
            help=f"share of tags {about} (0 to 0.9)",
        )


def count(text: str, most: int = 10_000_000_000) -> int:
    """Read a number of things from the command line; 1_000_000 and 1,000,000 are understood."""
    return _whole(text, 1, most)


def count_or_zero(text: str, most: int) -> int:
    """Read a number of things from the command line, or 0."""
    return _whole(text, 0, most)


def add_open_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--open`` to a command that serves HTTP."""
    parser.add_argument(
        "--open",
        action="store_true",
        help="serve other machines too, where FRONTEND_HOSTNAME is an address that they reach: "
        "whoever reaches it may read personal data and write",
    )


def need_open(host: str, *, is_open: bool) -> None:
    """Raise UsageError where other machines reach this address and nobody said that they may."""
    from footfall.api.address import PortError, need_loopback

    if not is_open:
        try:
            need_loopback(host)
        except PortError as error:
            raise UsageError(str(error)) from None


def port_or_any(text: str) -> int:
    """Read a port from the command line, or 0."""
    return _whole(text, 0, _PORT_MAX)


def port_number(text: str) -> int:
    """Read a port from the command line."""
    return _whole(text, 1, _PORT_MAX)


def seed(text: str) -> int:
    """Read a seed from the command line."""
    return _whole(text, 0, 2**63 - 1)


def share(text: str) -> float:
    """Read a share of all records from the command line."""
    return _number(text, 0.0, 0.9)


def speed(text: str) -> float:
    """Read event seconds per real second from the command line."""
    return _number(text, 0.001, 1_000_000.0)


def rate(text: str) -> float:
    """Read records per second from the command line."""
    return _number(text, 0.1, 10_000_000.0)


def moment_ms(text: str) -> int:
    """Read an event time from the command line, in ms: UTC; a date alone is its midnight."""
    try:
        return parse_time_ms(f"{text}T00:00" if len(text) == len("2022-03-22") else text)
    except BadTimeError as error:
        raise argparse.ArgumentTypeError(f"{error}: takes 2022-03-22T12:15:00, in UTC") from None


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text.replace(",", ""))
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
    return value


def _number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value


def world_arguments(args: argparse.Namespace) -> list[str]:
    """Return the tag world's options again, for a child's command line."""
    return [
        *("--seed", str(args.seed)),
        *("--late", str(args.late)),
        *("--out-of-order", str(args.out_of_order)),
        *("--duplicates", str(args.duplicates)),
        *("--malformed", str(args.malformed)),
    ]


def shop_arguments(args: argparse.Namespace) -> list[str]:
    """Return the simulated shop's options again, for a child's command line."""
    return [
        *("--seed", str(args.seed)),
        *("--late", str(args.late)),
        *("--out-of-order", str(args.out_of_order)),
        *("--malformed", str(args.malformed)),
        *("--clocks-off", str(args.clocks_off)),
        *("--clocks-far-off", str(args.clocks_far_off)),
        *("--clocks-ahead", str(args.clocks_ahead)),
        *("--density", str(args.density)),
    ]
