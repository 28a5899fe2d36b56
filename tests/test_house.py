"""The house keeps its plan: imports point one way, documented things exist, files stay small."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from footfall.cli.main import build_parser, command_names

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 600
ROOMS = (
    "api", "benchmarks", "cli", "flows", "generator", "grafana", "infra", "operations", "schemas",
    "sinks", "streams",
)  # fmt: skip
MAY_IMPORT = {
    "schemas": {"schemas"},
    "streams": {"schemas", "streams"},
    "sinks": {"schemas", "sinks"},
    "generator": {"schemas", "streams", "generator"},
    "infra": {"schemas", "infra"},
    "flows": {"schemas", "streams", "sinks", "flows"},
    "operations": {"schemas", "streams", "sinks", "flows", "operations"},
    "grafana": {"schemas", "infra", "grafana"},
    "api": {"schemas", "sinks", "infra", "operations", "api"},
    "cli": set(ROOMS) - {"benchmarks", "grafana"},
    "benchmarks": set(ROOMS),
}
"""The rooms of this project that each room may import."""
READ_ENVIRONMENT = {"api/server.py", "flows/_flow.py", "schemas/settings.py"}
"""Files that may read the environment; besides these and all of ``cli``, only a ``main`` may."""


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names of the modules, and of what is taken from them; ours without
    ``footfall.``."""
    return (name.removeprefix("footfall.") for name in imported_as_written(tree))


def imported_as_written(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written from the top"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def test_every_room_is_held_to_an_arrow() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == {*MAY_IMPORT, "footfall"}


def test_the_package_has_a_link_to_each_room() -> None:
    found = [path for path in (ROOT / "footfall").iterdir() if path.is_symlink()]
    links = {path.name: path.readlink() for path in found}
    assert links == {room: Path("..", room) for room in ROOMS}


def test_every_package_is_installed() -> None:
    packages = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for room in ROOMS
        for path in (ROOT / room).rglob("__init__.py")
    }
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(declared["packages"]) == {"footfall", *(f"footfall.{name}" for name in packages)}


@pytest.mark.parametrize("folder", [*ROOMS, "tests"])
def test_rooms_are_imported_from_the_package(folder: str) -> None:
    """From the top of the repository a room can be imported a second time by its bare name."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources(folder)
        for name in imported_as_written(parse(path))
        if name.split(".")[0] in ROOMS
    ]
    assert wrong == []


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


def test_each_flow_ends_in_its_flow_and_imports_no_engine() -> None:
    for path in sources("flows"):
        if path.stem.startswith("_"):
            continue
        tree = parse(path)
        assert ast.unparse(tree.body[-1]) == "main = FLOW.main", path.name
        wrong = [name for name in imported(tree) if name.split(".")[0] in ("bytewax", "faust")]
        assert wrong == [], path.name
        # The engine calls what it finds by that name only if it is a plain function.
        assert inspect.isfunction(importlib.import_module(f"footfall.flows.{path.stem}").main)


def reads_environment(node: ast.AST) -> bool:
    """Tell whether this very node names os.environ, os.getenv or read_settings."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("environ", "getenv", "read_settings")
    return isinstance(node, ast.Name) and node.id in ("environ", "getenv", "read_settings")


def outside_main(tree: ast.Module) -> Iterator[ast.AST]:
    for statement in tree.body:
        if not (isinstance(statement, ast.FunctionDef) and statement.name == "main"):
            yield from ast.walk(statement)


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("cli", "benchmarks")])
def test_only_entries_read_the_environment(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for path in sources(room)
        if str(path.relative_to(ROOT)) not in READ_ENVIRONMENT
        for node in outside_main(parse(path))
        if reads_environment(node)
    ]
    assert wrong == []


def tracked() -> list[Path]:
    """Return files of the project: what git tracks or would, or all that is not hidden without
    git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        paths = [path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*")]
    return [path for path in paths if path.is_file()]


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


def readme_code() -> str:
    """Return the README's code: fenced, indented, inline."""
    text = readme()
    indented = re.findall(r"^(?: {4}|\t).*$", text, re.MULTILINE)
    return "\n".join([*re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL), *indented])


def documented(tool: str) -> set[str]:
    """Return words that follow ``tool`` in the README's code."""
    return set(re.findall(rf"(?<![\w-]){tool} ([a-z][\w-]*)", readme_code()))


def test_documented_commands_exist_and_commands_are_documented() -> None:
    assert documented("footfall") == set(command_names(build_parser()))


def test_documented_options_exist() -> None:
    parser = build_parser()
    used = re.findall(r"footfall ([a-z][\w-]*)([^\n`]*)", readme_code())
    commands = next(
        action.choices for action in parser._actions if action.dest == "command" and action.choices
    )
    assert isinstance(commands, dict)
    for command, rest in used:
        known = all_help(commands[command])
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest.partition("#")[0]):
            assert re.search(rf"{option}\b", known), f"footfall {command} has no {option}"


def test_documented_demos_have_options_that_exist() -> None:
    demo = next(
        action.choices["demo"]
        for action in build_parser()._actions
        if isinstance(action.choices, dict)
    )
    for arguments in re.findall(r'make demo ARGS="([^"]*)"', readme()):
        for option in re.findall(r"--[a-z-]+", arguments):
            assert re.search(rf"{option}\b", all_help(demo)), f"footfall demo has no {option}"


def all_help(parser: object) -> str:
    """Return the help of a command and of its own commands."""
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
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert documented("make") <= targets
    assert {"demo", "test", "test-all", "check", "bench", "lock", "clean"} <= targets
    assert {"demo", "test"} <= documented("make")


def test_each_flow_has_its_file_and_its_line_in_the_readme() -> None:
    from footfall import flows

    for name, contract in flows.catalogue().items():
        assert contract.name == name
        assert (ROOT / "flows" / f"{name}.py").is_file()
        assert re.search(rf"^.*`{name}`.*$", readme(), re.MULTILINE), f"README: {name}"


def test_every_guarantee_is_shown_by_a_test() -> None:
    page = (ROOT / "docs" / "guarantees.md").read_text()
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    for path, test in named:
        assert f"def {test}(" in (ROOT / "tests" / path).read_text(), f"{path}::{test}"
    rows = [line for line in page.splitlines() if line.startswith("|") and line.count("| |") < 2]
    assert all("::test_" in row for row in rows[2:]), "a row without a test"
