"""The address that the api listens on: loopback unless told otherwise, and named as it is."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from footfall.api.address import PortError, listen, url_of
from footfall.schemas.addresses import OwnHosts
from footfall.schemas.settings import SettingError, read_settings
from tests.api_process_support import Process
from tests.api_support import Client
from tests.cli_support import footfall, one_line

HAS_IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("127.0.0.2", "http://127.0.0.2:"),
        ("localhost", "http://127.0.0.1:"),
        pytest.param("::1", "http://[::1]:", marks=needs_ipv6),
        pytest.param("::ffff:127.0.0.1", "http://[::ffff:127.0.0.1]:", marks=needs_ipv6),
    ],
)
def test_loopback_needs_no_word(host: str, shown: str) -> None:
    with listen(host, 0) as listening:
        port = listening.getsockname()[1]
        assert url_of(listening) == f"{shown}{port}/"


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("::", marks=needs_ipv6)])
def test_beyond_loopback_it_listens_only_when_told_so(host: str) -> None:
    with pytest.raises(PortError, match=f"FRONTEND_HOSTNAME={host} is reached by other") as no:
        listen(host, 0)
    assert "--open" in str(no.value)
    assert "\n" not in str(no.value)
    with listen(host, 0, is_open=True) as listening:
        shown = f"[{host}]" if ":" in host else host
        assert url_of(listening) == f"http://{shown}:{listening.getsockname()[1]}/"


@pytest.mark.parametrize("command", [["api"], ["demo", "--no-generator"]])
def test_the_commands_refuse_before_they_begin(command: list[str], tmp_path: Path) -> None:
    result = footfall(tmp_path / "home", *command, FRONTEND_HOSTNAME="0.0.0.0")
    assert result.returncode == 2
    assert "FRONTEND_HOSTNAME=0.0.0.0 is reached by other machines" in one_line(result)
    assert not (tmp_path / "home").exists()


def test_a_process_says_where_it_listens_on_a_free_port_of_all_addresses(tmp_path: Path) -> None:
    with Process(tmp_path, 0, "--open", wait=False, FRONTEND_HOSTNAME="0.0.0.0") as server:
        assert server.process.stdout is not None
        said = server.process.stdout.readline()
        assert said.startswith("listening on http://0.0.0.0:")
        port = int(said.rstrip("/\n").rpartition(":")[2])
        client = Client(port)
        assert client.get("/healthz").status == 200
        assert client.get("/healthz", {"Host": f"192.0.2.7:{port}"}).status == 200
        assert client.get("/healthz", {"Host": f"evil.example:{port}"}).status == 421
        client.close()
        assert server.stop(signal.SIGTERM)[0] == 0


def test_a_process_beyond_loopback_ends_with_one_line(tmp_path: Path) -> None:
    with Process(tmp_path, 0, wait=False, FRONTEND_HOSTNAME="0.0.0.0") as server:
        code, out, err = server.ended()
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "--open" in err


OWN = ["localhost", "localhost:8080", "LOCALHOST", "127.0.0.1:8080", "[::1]:8080", "[::1]"]
FOREIGN = ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", ""]


@pytest.mark.parametrize("host", OWN)
def test_the_names_of_loopback_are_our_own(host: str) -> None:
    assert OwnHosts().know(host)
    assert OwnHosts("0.0.0.0").know(host)


@pytest.mark.parametrize("host", [*FOREIGN, "192.0.2.7", "[2001:db8::1]:80", "[evil.example]"])
def test_other_names_are_foreign(host: str) -> None:
    assert not OwnHosts().know(host)
    assert OwnHosts("127.0.0.1", ["*"]).know(host)


def test_an_address_is_known_by_itself_and_all_addresses_by_their_numbers() -> None:
    assert OwnHosts("192.0.2.7").know("192.0.2.7:8080")
    assert not OwnHosts("192.0.2.7").know("192.0.2.8:8080")
    assert OwnHosts("0.0.0.0").know("192.0.2.8:8080")
    assert OwnHosts("::").know("[2001:db8::1]:8080")
    assert not any(OwnHosts("0.0.0.0").know(host) for host in FOREIGN)


def test_settings_name_hosts_and_origins() -> None:
    settings = read_settings(
        {
            "ALLOWED_HOSTS": "Shop.Example, api.shop.example.,[2001:db8::1]",
            "ALLOWED_ORIGINS": "https://Shop.Example/, http://shop.example:80,https://x.example:8443",
        }
    )
    assert settings.allowed_hosts == ("shop.example", "api.shop.example", "2001:db8::1")
    assert settings.allowed_origins == (
        "https://shop.example",
        "http://shop.example",
        "https://x.example:8443",
    )
    assert OwnHosts("127.0.0.1", settings.allowed_hosts).know("SHOP.example:443")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALLOWED_HOSTS", "shop.example:8080"),
        ("ALLOWED_HOSTS", "https://shop.example"),
        ("ALLOWED_HOSTS", "shop example"),
        ("ALLOWED_ORIGINS", "shop.example"),
        ("ALLOWED_ORIGINS", "https://shop.example/path"),
        ("ALLOWED_ORIGINS", "ftp://shop.example"),
        ("ALLOWED_ORIGINS", "https://user@shop.example"),
        ("ALLOWED_ORIGINS", "https://shop.example:port"),
        ("ALLOWED_ORIGINS", "https://good.example,null"),
    ],
)
def test_names_that_are_none_are_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingError, match=variable) as refusal:
        read_settings({variable: value})
    assert "takes" in str(refusal.value)
