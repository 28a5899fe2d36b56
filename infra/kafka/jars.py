"""Java and the broker's jars: found where they are, fetched once with Maven where not.

The folder of jars is named for what the pom asks for, so that another version is fetched anew;
it appears whole, whoever is interrupted and however many fetch at once.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from infra.kafka.errors import KafkaServerError, MissingToolError

POM = Path(__file__).parent / "pom.xml"
JAVA_MIN = 17
FETCH_WITHIN_S = 600
_ASK_WITHIN_S = 30

Say = Callable[[str], None]


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where the jars are kept between runs: under XDG_CACHE_HOME, or ``~/.cache``."""
    base = env.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "footfall"


def find_java(env: Mapping[str, str]) -> str:
    """The ``java`` of JAVA_HOME, or of PATH. Raises MissingToolError: none, or too old."""
    home = env.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else "java"
    found = shutil.which(java, path=env.get("PATH"))
    if found is None:
        raise MissingToolError(
            f"{f'JAVA_HOME={home} has no java' if home else 'Java is not installed'}: Kafka needs "
            f"Java {JAVA_MIN} or newer; on Debian or Ubuntu: apt-get install "
            f"openjdk-{JAVA_MIN}-jre-headless"
        )
    try:
        asked = subprocess.run(
            [found, "-version"], capture_output=True, text=True, timeout=_ASK_WITHIN_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingToolError(f"{found} does not run ({error}): set JAVA_HOME") from None
    version = java_version(asked.stderr + asked.stdout)
    if version is None or version < JAVA_MIN:
        what = f"is Java {version}" if version else "does not say its version"
        raise MissingToolError(
            f"{found} {what}: Kafka needs Java {JAVA_MIN} or newer; install it, or set JAVA_HOME"
        )
    return found


def java_version(text: str) -> int | None:
    """The feature version in the output of ``java -version``; None where there is none."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def find_jars(
    cache: Path, env: Mapping[str, str], say: Say = lambda _line: None, pom: Path = POM
) -> Path:
    """The folder of jars, fetched with Maven where it does not stand yet.

    Raises MissingToolError without Maven, KafkaServerError where the fetch fails.
    """
    identity = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    folder = cache / f"kafka-jars-{identity}"
    if folder.is_dir():
        return folder
    mvn = shutil.which("mvn", path=env.get("PATH"))
    if mvn is None:
        raise MissingToolError(
            f"Kafka's jars are not in {cache}, and Maven, which fetches them, is not installed; "
            "on Debian or Ubuntu: apt-get install maven"
        )
    say("fetching Kafka's jars with Maven (about 45 MB, once)")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=cache) as draft:
            _fetch(mvn, pom, Path(draft) / "jars", env)
            _put(Path(draft) / "jars", folder)
    except OSError as error:
        raise KafkaServerError(
            f"cannot keep Kafka's jars in {cache} ({error.strerror or error}): free the disk, or "
            "set XDG_CACHE_HOME to a folder of your own"
        ) from None
    say(f"Kafka's jars are in {folder}")
    return folder


def _fetch(mvn: str, pom: Path, into: Path, env: Mapping[str, str]) -> None:
    into.mkdir()
    command = [mvn, "--batch-mode", "--no-transfer-progress", "--strict-checksums", "--quiet"]
    command += ["--file", str(pom), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    try:
        done = subprocess.run(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=FETCH_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise KafkaServerError(
            f"Maven did not fetch Kafka's jars within {FETCH_WITHIN_S} s: is the network up?"
        ) from None
    if done.returncode != 0 or not any(into.glob("kafka_*.jar")):
        raise KafkaServerError(
            f"Maven could not fetch Kafka's jars ({_reason(done.stdout + done.stderr)}): is the "
            "network up? Maven's settings.xml decides where it fetches from"
        )


def _put(jars: Path, folder: Path) -> None:
    try:
        jars.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        # Another process has fetched them in the meantime.


def _reason(output: str) -> str:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    errors = [line.removeprefix("[ERROR]").strip() for line in lines if "[ERROR]" in line]
    found = next(filter(None, errors), "") or next(filter(None, reversed(lines)), "no message")
    return found.partition(" -> [Help")[0][:300]
