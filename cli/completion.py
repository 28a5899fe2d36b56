"""``footfall completion``: a script with which a shell completes commands, options and flows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
_INSTALLED = {
    "bash": "~/.local/share/bash-completion/completions/footfall",
    "zsh": "a folder of $fpath, as _footfall",
    "fish": "~/.config/fish/completions/footfall.fish",
}


class Word(NamedTuple):
    """A word that may come next, and a text about it."""

    text: str
    about: str = ""


Tree = dict[str, list[Word]]
"""The words that may come next, by the commands typed so far ("topics tail")."""


def add_commands(commands: Any) -> None:
    """Add ``completion`` to the command line."""
    parser = commands.add_parser(
        "completion",
        help="a script that completes commands in bash, zsh or fish",
        description="Print a script for a shell. Keep it in "
        + "; ".join(f"{shell}: {where}" for shell, where in _INSTALLED.items())
        + ".",
    )
    parser.add_argument("shell", choices=(*_SCRIPTS,), help="whose script")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Print the script of a shell."""
    from footfall.cli.main import build_parser

    print(_SCRIPTS[args.shell](tree_of(build_parser())))
    return 0


def tree_of(parser: argparse.ArgumentParser) -> Tree:
    """Return the words that a parser takes, command by command."""
    return dict(_walked("", parser))


def _walked(at: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[Word]]]:
    words: list[Word] = []
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        about = (action.help or "") % {"default": action.default, "prog": parser.prog}
        if isinstance(action, argparse._SubParsersAction):
            helps = {one.dest: one.help or "" for one in action._choices_actions}
            words += [Word(name, helps.get(name, "")) for name in action.choices]
            for name, command in action.choices.items():
                yield from _walked(f"{at} {name}".strip(), command)
        elif action.option_strings:
            words += [Word(text, about) for text in action.option_strings if text[:2] == "--"]
        elif action.metavar == "FLOW":
            words += [Word(name, "a flow") for name in _flows()]
        else:
            words += [Word(str(choice)) for choice in action.choices or ()]
    yield at, words


def _flows() -> list[str]:
    """Return the names of the flows, from their files: importing them takes a second."""
    files = sorted((PROJECT / "flows").glob("[!_]*.py"))
    return [file.stem for file in files]


def _cases(tree: Tree, line: Callable[[str, str], str]) -> str:
    return "\n".join(line(at, " ".join(word.text for word in tree[at])) for at in sorted(tree))


def _steps(tree: Tree) -> str:
    """Return the pattern of a command after those before it, for ``case "$at $word"``."""
    pairs = (at.rpartition(" ") for at in sorted(tree) if at)
    return "|".join(f'"{before} {name}"' for before, _, name in pairs)


def _bash(tree: Tree) -> str:
    return f"""# footfall completion bash
_footfall() {{
  local word at="" words="" current="${{COMP_WORDS[COMP_CWORD]}}"
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "$at $word" in {_steps(tree)}) at="${{at:+$at }}$word";; esac
  done
  case "$at" in
{_cases(tree, lambda at, words: f'    "{at}") words="{words}";;')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _footfall footfall"""


def _zsh(tree: Tree) -> str:
    return f"""#compdef footfall
_footfall() {{
  local word at="" next
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    case "$at $word" in ({_steps(tree)}) at="${{at:+$at }}$word";; esac
  done
  case "$at" in
{_cases(tree, lambda at, words: f'    ("{at}") next="{words}";;')}
  esac
  compadd -- ${{=next}} || _files
}}
if [ "$funcstack[1]" = _footfall ]; then _footfall; else compdef _footfall footfall; fi"""


def _fish(tree: Tree) -> str:
    offered = "\n".join(
        f"complete -c footfall -n '__footfall_at \"{at}\"' {_offer(word)}"
        for at in sorted(tree)
        for word in tree[at]
    )
    steps = _steps(tree).replace("|", " ")
    return f"""# footfall completion fish
function __footfall_at
  set -l at ""
  for word in (commandline -opc)[2..]
    if contains -- "$at $word" {steps}
      set at (string trim "$at $word")
    end
  end
  test "$at" = "$argv[1]"
end
{offered}"""


def _offer(word: Word) -> str:
    is_option = word.text.startswith("--")
    name = f"-l {word.text[2:]}" if is_option else f"-a {word.text}"
    about = word.about.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name} -d '{about}'" if about else name


_SCRIPTS: dict[str, Callable[[Tree], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
