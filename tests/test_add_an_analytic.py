"""docs/add-an-analytic.md, followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "add-an-analytic.md"
ROOMS = (
    "api", "benchmarks", "cli", "docs", "flows", "generator", "grafana", "infra", "operations",
    "schemas", "sinks", "streams", "tests",
)  # fmt: skip
TIMEOUT_S = 240


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (path named right before it, code) of each fenced block of the page."""
    found = re.findall(
        rf"(?:^`([^`\n]+)`\n\n)?^```{language}\n(.*?)^```$",
        PAGE.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return [(path, code) for path, code in found]


def copy_of_project(folder: Path) -> Path:
    """Copy the project without its generated files; return the copy."""
    left_out = shutil.ignore_patterns("__pycache__", "*.pyc")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=left_out)
    shutil.copytree(ROOT / "footfall", folder / "footfall", symlinks=True, ignore=left_out)
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.slow
def test_the_page_adds_an_analytic_that_runs(tmp_path: Path) -> None:
    project = copy_of_project(tmp_path / "project")
    for path, code in blocks("python"):
        assert path, "each file of the page is named"
        assert not (project / path).exists(), f"{path} is new"
        (project / path).write_text(code)
    ((_, line),) = blocks("markdown")
    readme = (project / "README.md").read_text()
    last = [row for row in readme.splitlines() if re.match(r"\| `\w+` \| `\w+", row)][-1]
    (project / "README.md").write_text(readme.replace(last, f"{last}\n{line.strip()}"))

    # `python` and `footfall` are those of the copy.
    environ = {
        **os.environ,
        "PYTHONPATH": str(project),
        "FOOTFALL_HOME": str(tmp_path / "home"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }
    for name in ("CLICKHOUSE_URL", "TOPICS_URL", "KAFKA_BOOTSTRAP_SERVERS"):
        environ.pop(name, None)
    (tmp_path / "bin").mkdir()
    for name, command in (("python", ""), ("footfall", " -m footfall.cli.main")):
        tool = tmp_path / "bin" / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}"{command} "$@"\n')
        tool.chmod(0o755)

    def run(command: str) -> str:
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=project,
            env=environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    commands = [line for _, code in blocks("sh") for line in code.splitlines()]
    assert len(commands) == 7
    *_, answer = [run(command) for command in commands]
    counted = {
        (provider, status): int(n.replace(",", ""))
        for provider, status, n in re.findall(r"(\w+)\s+(\w+)\s+([\d,]+)\s*$", answer, re.M)
    }
    assert counted == answers_sent(project, tmp_path / "home"), answer
    assert "provider_answers" in run("footfall flows")
    run("python -m pytest tests/test_house.py -k 'flow or arrow or import or long'")


def answers_sent(project: Path, home: Path) -> dict[tuple[str, str], int]:
    """Return what the topic holds, counted by hand."""
    counted: dict[tuple[str, str], int] = {}
    for file in (home / "topics" / "platform_logs").glob("*.jsonl"):
        for line in file.read_text().splitlines():
            record = json.loads(line)
            if record["action"] == "PaymentProviderRep":
                key = (record["data"]["provider"], record["data"]["status"])
                counted[key] = counted.get(key, 0) + 1
    assert counted
    return counted
