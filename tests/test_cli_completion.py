"""The words that a shell may complete, from the parser itself; and the version."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest

from footfall import flows
from footfall.cli.completion import tree_of
from footfall.cli.main import build_parser, command_names, main
from tests.cli_support import ROOT

TREE = tree_of(build_parser())


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"footfall {version}\n")


def test_each_command_is_known_with_its_options() -> None:
    assert {*command_names(build_parser())} <= {word.text for word in TREE[""]} <= {
        *command_names(build_parser()), "--help", "--version", "--debug"
    }  # fmt: skip
    assert {"ls", "tail", "show"} <= {word.text for word in TREE["topics"]}
    assert {"--follow", "--key", "--json"} <= {word.text for word in TREE["topics tail"]}
    assert {*flows.catalogue()} <= {word.text for word in TREE["run"]}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["to"], ["topics"]),
        (["topics", "ta"], ["tail"]),
        (["topics", "tail", "user_tags", "--f"], ["--follow"]),
        (["run", "minute"], ["minute_buckets"]),
        (["run", "minute_buckets", "--work"], ["--workers", "--worker"]),
        (["--debug", "dead-letters", "ret"], ["retry"]),
        (["nonsense", "topi"], ["topics"]),
    ],
)
def test_bash_completes(typed: list[str], offered: list[str], tmp_path: Path) -> None:
    script = tmp_path / "footfall.bash"
    script.write_text(printed("bash"))
    words = " ".join(["footfall", *typed])
    asked = subprocess.run(
        ["bash", "-c", f"source {script}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; "
         'COMPREPLY=(); _footfall; printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert asked.stdout.split() == offered
    assert asked.stderr == ""


def test_zsh_and_fish_are_told_the_same() -> None:
    zsh, fish = printed("zsh"), printed("fish")
    for at, words in TREE.items():
        assert f'("{at}") next="{" ".join(word.text for word in words)}";;' in zsh
        for word in words:
            name = f"-l {word.text[2:]}" if word.text.startswith("--") else f"-a {word.text}"
            assert f"-n '__footfall_at \"{at}\"' {name}" in fish


def printed(shell: str) -> str:
    from footfall.cli.completion import _SCRIPTS

    return _SCRIPTS[shell](TREE)
