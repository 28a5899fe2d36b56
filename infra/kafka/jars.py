"""Java and the broker's jars: found where they are, or fetched once with Maven.

The folder of jars is named for the content of the pom, so that another version is fetched again.
It appears complete or not at all, even if a fetch is interrupted. Of several processes one
fetches: Maven's own cache is not made for several.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from footfall.infra.kafka.errors import KafkaServerError, MissingToolError

POM = Path(__file__).parent / "pom.xml"
JAVA_MIN = 17
FETCH_WITHIN_S = 600
_ASK_WITHIN_S = 30
_POLL_S = 0.1

Say = Callable[[str], None]


def cache_folder(env: Mapping[str, str]) -> Path:
    """Return the folder of jars between runs: under XDG_CACHE_HOME, or ``~/.cache``."""
    base = env.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "footfall"


def find_java(env: Mapping[str, str]) -> str:
    """Return the ``java`` of JAVA_HOME, or of PATH. Raises MissingToolError."""
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
    """Return the feature version in the output of ``java -version``, None where it has none."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def find_jars(
    cache: Path, env: Mapping[str, str], say: Say = lambda _line: None, pom: Path = POM
) -> Path:
    """Return the folder of jars, fetched with Maven where it does not exist yet.

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
        with _alone(cache):
            if folder.is_dir():
                return folder
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=cache) as draft:
                _fetch(mvn, pom, Path(draft) / "jars", env)
                (Path(draft) / "jars").rename(folder)
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


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache for one process; the others wait as long as a fetch may take."""
    fd = os.open(cache, os.O_RDONLY | os.O_DIRECTORY)
    try:
        until_s = time.monotonic() + FETCH_WITHIN_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise KafkaServerError(
                        f"another process has fetched Kafka's jars to {cache} for "
                        f"{FETCH_WITHIN_S} s: wait for it, or end it"
                    ) from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def _reason(output: str) -> str:
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output.splitlines()]
    errors = [line.removeprefix("[ERROR]").strip() for line in lines if "[ERROR]" in line]
    found = next(filter(None, errors), "") or next(filter(None, reversed(lines)), "no message")
    return found.partition(" -> [Help")[0][:300]
