"""An Aerospike server of the suite's own that may be killed, where AEROSPIKE_SERVER_BIN names one.

That is ``asd`` of the Community Edition: there is no package of it to install, but it can be built
from its source in half an hour.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from contextlib import closing
from pathlib import Path

import aerospike
import pytest
from aerospike import exception

from tests.aerospike_support import Server
from tests.ports_support import free_port

NO_BINARY = "AEROSPIKE_SERVER_BIN is not set: no Aerospike server to kill"
START_S_MAX = 60.0
FILES_MAX = 1_024
"""The fewest connections that it can be told to take."""
_CONFIG = """
service {{
    cluster-name tests
    proto-fd-max {files_max}
    work-directory {folder}/work
    run-as-daemon false
}}
mod-lua {{
    user-path {folder}/udf
}}
logging {{
    console {{
        context any warning
    }}
}}
network {{
    service {{
        address 127.0.0.1
        port {ports[0]}
    }}
    heartbeat {{
        mode mesh
        address 127.0.0.1
        port {ports[1]}
        interval 150
        timeout 10
    }}
    fabric {{
        address 127.0.0.1
        port {ports[2]}
    }}
    admin {{
        address 127.0.0.1
        port {ports[3]}
    }}
}}
namespace profiles {{
    replication-factor 1
    storage-engine device {{
        file {folder}/profiles.dat
        filesize 1G
        flush-max-ms 2000
    }}
}}
namespace aggregates {{
    replication-factor 1
    storage-engine memory {{
        file {folder}/aggregates.dat
        filesize 1G
        flush-max-ms 2000
    }}
}}
"""


class Node:
    """One node on a folder; both namespaces are kept in files, flushed once in two seconds."""

    def __init__(self, folder: Path) -> None:
        """Prepare a node; skip the test where there is no binary."""
        binary = os.environ.get("AEROSPIKE_SERVER_BIN")
        if not binary:
            pytest.skip(NO_BINARY)
        ports = [free_port() for _ in range(4)]
        self.at = Server("127.0.0.1", ports[0], "profiles", "aggregates")
        self._log = folder / "log"
        for name in ("work/smd", "udf"):
            (folder / name).mkdir(parents=True)
        config = folder / "aerospike.conf"
        config.write_text(_CONFIG.format(folder=folder, ports=ports, files_max=FILES_MAX))
        # It starts only where it may have as many files open as that.
        allowed = f'ulimit -n {2 * FILES_MAX} && exec "$@"'
        server = [binary, "--config-file", str(config), "--foreground"]
        self._command = ["sh", "-c", allowed, "sh", *server]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it takes writes."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until_s = time.monotonic() + START_S_MAX
        while not self._is_ready():
            assert self._process.poll() is None, self._log.read_text(errors="replace")
            assert time.monotonic() < until_s, self._log.read_text(errors="replace")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it (SIGKILL): what it has not flushed is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it, and start it again on its files."""
        self.kill()
        self.start()

    def _is_ready(self) -> bool:
        try:
            client = aerospike.client(
                {"hosts": [(self.at.host, self.at.port)], "connect_timeout": 500}
            )
        except exception.AerospikeError:
            return False
        with closing(client):
            answers = client.info_all("partition-generation").values()
            return bool(answers) and all(re.match(r"\d", text or "") for _, text in answers)
