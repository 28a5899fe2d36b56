"""The house keeps its plan: imports point one way, documented things exist, files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.main import build_parser, command_names

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 600
ROOMS = (
    "api", "benchmarks", "cli", "flows", "generator", "infra", "schemas", "sinks", "streams",
)  # fmt: skip
MAY_IMPORT = {
    "schemas": {"schemas"},
    "streams": {"schemas", "streams"},
    "sinks": {"schemas", "sinks"},
    "generator": {"schemas", "generator"},
    "infra": {"schemas", "infra"},
    "api": {"schemas", "sinks", "api"},
    "flows": {"schemas", "streams", "sinks", "flows"},
    "cli": set(ROOMS) - {"benchmarks"},
    "benchmarks": set(ROOMS),
}
"""What each room may import of this project."""
MAY_READ_ENVIRONMENT = {"cli": None, "api": "server.py", "flows": None, "schemas": "settings.py"}
"""Rooms whose modules may (None: all, or the one named); in flows only within ``main``."""


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of the modules, and of what is taken from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from the top"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_every_room_is_held_to_an_arrow() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(MAY_IMPORT)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(room)
        for name in imported(parse(path))
        if name.split(".")[0] in {*ROOMS, "tests"} - MAY_IMPORT[room]
    ]
    assert wrong == []


def test_no_flow_imports_another_flow() -> None:
    flows = {path.stem for path in sources("flows") if not path.stem.startswith("_")}
    wrong = [
        f"{path.name} imports {name}"
        for path in sources("flows")
        for name in imported(parse(path))
        if name.startswith("flows.") and name.split(".")[1] in flows - {path.stem}
    ]
    assert wrong == []


def reads_environment(node: ast.AST) -> bool:
    """Whether this very node names os.environ, os.getenv or read_settings."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("environ", "getenv", "read_settings")
    return isinstance(node, ast.Name) and node.id in ("environ", "getenv", "read_settings")


def outside_main(tree: ast.Module) -> Iterator[ast.AST]:
    for statement in tree.body:
        if not (isinstance(statement, ast.FunctionDef) and statement.name == "main"):
            yield from ast.walk(statement)


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("cli", "benchmarks")])
def test_only_entries_read_the_environment(room: str) -> None:
    wrong = []
    for path in sources(room):
        if room in MAY_READ_ENVIRONMENT and MAY_READ_ENVIRONMENT[room] == path.name:
            continue
        tree = parse(path)
        nodes = outside_main(tree) if room == "flows" else ast.walk(tree)
        wrong += [
            f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            for node in nodes
            if reads_environment(node)
        ]
    assert wrong == []


def tracked() -> list[Path]:
    """Files of the project: what git tracks or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is no git checkout: its files cannot be listed")
    names = filter(None, listed.stdout.split("\0"))
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_no_source_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked()
        if path.suffix in (".py", ".js", ".css", ".html", ".sh", ".yml")
        and "vendor" not in path.parts
        and (count := path.read_text().count("\n")) > LINES_MAX
    }
    assert long == {}


def test_lock_files_have_hashes_and_no_address() -> None:
    locks = sorted(ROOT.glob("*.lock"))
    assert [lock.name for lock in locks] == ["requirements-dev.lock", "requirements.lock"]
    for lock in locks:
        lines = lock.read_text().splitlines()
        assert [line for line in lines if re.search(r"://|^-|file:|\.whl|/\w+/", line)] == []
        pinned = [line for line in lines if re.match(r"\S+==", line)]
        assert pinned, lock.name
        assert [line for line in pinned if not line.endswith("\\")] == [], "each has hashes"


def test_both_locks_pin_the_same_versions() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")


def readme() -> str:
    return (ROOT / "README.md").read_text()


def documented(tool: str) -> set[str]:
    """Words that follow ``tool`` in the README's code, inline or in blocks."""
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme(), re.DOTALL))
    return set(re.findall(rf"(?<![\w-]){tool} ([a-z][\w-]*)", code))


def test_documented_commands_exist_and_commands_are_documented() -> None:
    assert documented("footfall") == set(command_names(build_parser()))


def test_documented_options_exist() -> None:
    parser = build_parser()
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme(), re.DOTALL))
    used = re.findall(r"footfall ([a-z]+)([^\n`]*)", code)
    commands = next(
        action.choices for action in parser._actions if action.dest == "command" and action.choices
    )
    assert isinstance(commands, dict)
    for command, rest in used:
        known = all_help(commands[command])
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest.partition("#")[0]):
            assert re.search(rf"{option}\b", known), f"footfall {command} has no {option}"


def all_help(parser: object) -> str:
    """The help of a command and of its own commands."""
    from argparse import ArgumentParser

    assert isinstance(parser, ArgumentParser)
    nested = [
        all_help(choice)
        for action in parser._actions
        if isinstance(action.choices, dict)
        for choice in action.choices.values()
    ]
    return "\n".join([parser.format_help(), *nested])


def test_documented_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert documented("make") <= targets
    assert {"demo", "test", "check", "bench", "lock", "clean"} <= targets
    assert {"demo", "test"} <= documented("make")


def test_each_flow_has_its_file_and_its_line_in_the_readme() -> None:
    import flows

    for name, contract in flows.catalogue().items():
        assert contract.name == name
        assert (ROOT / "flows" / f"{name}.py").is_file()
        assert re.search(rf"^.*`{name}`.*$", readme(), re.MULTILINE), f"README: {name}"
