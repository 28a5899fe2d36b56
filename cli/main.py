"""The entry of ``footfall``: finds the command, runs it, turns an error into one line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from footfall.cli.errors import CommandError, did_you_mean, line_and_code, say

FAMILIES = (
    "demo",
    "flows",
    "generate",
    "init",
    "serve",
    "report",
    "query",
    "replay",
    "verify",
    "letters.command",
    "doctor.command",
    "topics_command",
    "observe",
    "completion",
    "watch",
)
"""Modules of ``cli``; each has ``add_commands(commands)``. They import what they need late."""


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"footfall: {message} (see `{self.prog} --help`)\n")


class _Version(argparse.Action):
    """Prints the version of the package; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from footfall.infra.logs import footfall_version

        print(f"footfall {footfall_version()}")
        parser.exit()


def build_parser() -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="footfall",
        description="Real-time analytics for an online shop.",
        epilog="Settings are environment variables (FOOTFALL_HOME, TOPICS_URL, CLICKHOUSE_URL, "
        "...): see the README. Start with `footfall demo`.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and end")
    parser.add_argument("--debug", action="store_true", help="on an error, show where it arose")
    parser.add_argument("--tied", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    for family in FAMILIES:
        importlib.import_module(f"footfall.cli.{family}").add_commands(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def command_names(parser: Parser) -> list[str]:
    """Return the commands of the parser, in the order of its help."""
    return [
        name
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name in action.choices
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 failed, 2 wrongly asked)."""
    parser = build_parser()
    words = list(sys.argv[1:] if argv is None else argv)
    _check_command(parser, words)
    args = parser.parse_args(words)
    if args.tied:
        from footfall.cli.tied import tie_to_parent

        tie_to_parent()
    if args.command is None:
        parser.print_help()
        return 0
    debug = args.debug or os.environ.get("FOOTFALL_DEBUG", "0") not in ("", "0")
    # Files that a command makes, in the home above all, can be read by its user alone.
    mask = os.umask(0o077)
    try:
        code: int = args.handler(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone (`footfall query ... | head`): nothing to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug and not isinstance(error, CommandError | KeyboardInterrupt):
            traceback.print_exc()
        line, code = line_and_code(error)
        say(line)
        return code
    finally:
        os.umask(mask)


def _check_command(parser: Parser, words: list[str]) -> None:
    """End with an error for an unknown command: the first word that is not an option."""
    typed = next((word for word in words if not word.startswith("-")), None)
    names = command_names(parser)
    if typed is not None and typed not in names:
        parser.error(f"no such command: {typed}{did_you_mean(typed, names)}")


if __name__ == "__main__":
    sys.exit(main())
