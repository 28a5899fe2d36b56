"""Footfall as it is installed, beside a ``flows`` and a ``schemas`` of somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_support import ROOT

TIMEOUT_S = 240


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the content of the wheel."""
    folder, notes = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("notes")
    build = [
        *("--quiet", "egg_info", "--egg-base", str(notes)),
        *("build_py", "--build-lib", str(folder)),
    ]
    code = f"from setuptools import setup; setup(script_args={build!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=TIMEOUT_S)
    return folder


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """Return a folder of a user, with names that are those of our rooms."""
    for name in ("flows", "schemas", "streams"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    # A folder of our own name that is no package, such as a clone has.
    (tmp_path / "footfall" / "flows").mkdir(parents=True)
    return tmp_path


def run(folder: Path, installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(installed), "FOOTFALL_HOME": str(folder / "home")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_nothing_is_installed_but_the_package(installed: Path) -> None:
    assert [path.name for path in installed.iterdir()] == ["footfall"]
    files = {path.relative_to(installed / "footfall").as_posix() for path in installed.rglob("*")}
    assert {"api/static/index.html", "infra/kafka/pom.xml", "schemas/tables/traces.py"} <= files


def test_the_command_runs_beside_rooms_of_the_same_names(installed: Path, beside: Path) -> None:
    done = run(beside, installed, "-m", "footfall.cli", "flows")
    assert done.returncode == 0, done.stderr
    assert "minute_buckets" in done.stdout


def test_the_engine_runs_a_flow_beside_rooms_of_the_same_names(
    installed: Path, beside: Path
) -> None:
    done = run(beside, installed, "-m", "bytewax.run", "footfall.flows.minute_buckets:main()")
    assert f"{installed}/footfall/streams/source.py" in done.stderr
    assert "NoTopicError" in done.stderr, "its home is empty"
