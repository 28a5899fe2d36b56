"""The engine's configuration: the rights and limits of the user that runs all statements.

It is written beside the data and named to the engine. Otherwise the engine takes any
``config.xml`` of the current folder, and lets everybody do everything.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import escape

from footfall.infra._clickhouse_errors import Code, failure

RESULT_BYTES_MAX = 536_870_912
"""A result is held whole in memory; the setting ``max_result_bytes`` of a call changes this."""

GRANTS = (
    "SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP DATABASE, DROP TABLE,"
    " DROP VIEW, TRUNCATE, OPTIMIZE, SHOW, CHECK, KILL QUERY"
)
"""Rights that do not reach beyond the tables: no sources, dictionaries, functions or SYSTEM."""
_FIXED = {
    # Data of the format Values must not hold expressions, which would run without inspection.
    "input_format_values_interpret_expressions": 0,
    "input_format_values_deduce_templates_of_expressions": 0,
    # Variables of this process must not be read as tables.
    "allow_python_table_function": 0,
    # A folder of the path that is called day=1 does not make a column "day".
    "use_hive_partitioning": 0,
}
_SERVER = """<clickhouse>
<user_directories><users_xml><path>{users}</path></users_xml></user_directories>
</clickhouse>
"""
_USERS = """<clickhouse>
<users><default>
<password></password><networks><ip>::/0</ip></networks>
<profile>default</profile><quota>default</quota>
<grants><query>GRANT {grants} ON *.*</query></grants>
</default></users>
<quotas><default/></quotas>
<profiles><default>
{settings}
<constraints>
{constraints}
</constraints>
</default></profiles>
</clickhouse>
"""


def write_config(folder: Path, query_s_max: int) -> str:
    """Write the configuration into a folder; return the option that names it to the engine."""
    users, server = folder / "users.xml", folder / "server.xml"
    settings = {
        # An insert is written at once: what is acknowledged is on disk, and waits for no timer.
        "async_insert": 0,
        "max_result_bytes": RESULT_BYTES_MAX,
        "max_execution_time": query_s_max,
        **_FIXED,
    }
    users.write_text(
        _USERS.format(
            grants=GRANTS,
            settings="\n".join(f"<{name}>{value}</{name}>" for name, value in settings.items()),
            constraints="\n".join(f"<{name}><const/></{name}>" for name in _FIXED),
        )
    )
    server.write_text(_SERVER.format(users=escape(str(users))))
    return f"config-file={quote(str(server))}"


def check_grants(shown: str) -> None:
    """Raise EngineError where the engine, which does not say so, ignored the configuration."""
    granted = shown.strip().removeprefix("GRANT ").removesuffix(" ON *.* TO default")
    if set(granted.split(", ")) != set(GRANTS.split(", ")):
        reason = f"the engine grants what it was not told to: {' '.join(granted.split())[:200]}"
        raise failure(Code.ACCESS_DENIED, reason)
