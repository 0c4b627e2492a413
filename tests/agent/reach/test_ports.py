"""The local ports of forwards."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from devroute.agent.reach import ports
from devroute.agent.reach.mesh_port import Forward, MeshPort
from devroute.agent.reach.ports import LocalPorts, derived
from devroute.errors import ConfigInvalid

C = Forward.parse("c.shop:80")


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bound(held: ExitStack, folder: Path | None, forward: Forward = C) -> int:
    sock, _ = LocalPorts(folder, "https://devroute.example").bind(forward)
    held.enter_context(sock)
    return int(sock.getsockname()[1])


def test_a_port_follows_from_the_name() -> None:
    assert derived(MeshPort.parse("c.shop:80")) == 26509
    assert derived(MeshPort.parse("tcp://orders-db:5432")) == 5432
    assert ports.FIRST <= derived(MeshPort.parse("tcp://ldap:389")) < ports.FIRST + ports.COUNT


def test_a_port_that_is_taken_gives_way_to_the_next_which_is_remembered(
    held: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setattr(ports, "derived", lambda to: taken)
        sock, wanted = LocalPorts(tmp_path, "https://devroute.example").bind(C)
        with sock:
            port = sock.getsockname()[1]
        assert wanted == taken < port <= taken + ports.TRIES
    assert bound(held, tmp_path) == port
    assert (tmp_path / "reach.json").stat().st_mode & 0o077 == 0


def test_a_second_devroute_up_takes_the_next_port_and_leaves_the_first_one_its_own(
    held: ExitStack, tmp_path: Path
) -> None:
    first = bound(held, tmp_path)
    with ExitStack() as second:
        assert bound(second, tmp_path) != first
    held.close()
    assert bound(held, tmp_path) == first


@pytest.mark.parametrize("text", ["", "[]", '{"https://devroute.example c.shop:80": "x"}', "\0" * 70000])
def test_a_file_that_is_not_as_it_was_written_counts_as_none(
    held: ExitStack, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
    monkeypatch.setattr(ports, "derived", lambda to: free)
    (tmp_path / "reach.json").write_text(text)
    port = bound(held, tmp_path)
    assert free <= port < free + ports.TRIES
    assert json.loads((tmp_path / "reach.json").read_text()) == {"https://devroute.example c.shop:80": port}


def test_what_is_remembered_is_bounded(
    held: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "MAX_REMEMBERED", 2)
    for name in ("c", "d", "e"):
        bound(held, tmp_path, Forward.parse(f"{name}:80"))
    assert [key.split()[1] for key in json.loads((tmp_path / "reach.json").read_text())] == ["d:80", "e:80"]


def test_a_chosen_port_that_is_taken_is_an_error_that_says_what_to_do(held: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigInvalid, match=f"port {port} is in use") as raised:
            bound(held, None, Forward(C.to, port))
    assert raised.value.hint == "leave it out, or choose another: --reach PORT=c.shop:80"


def test_the_port_for_proxies_is_chosen_where_its_error_says() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(ConfigInvalid, match="is in use") as raised,
    ):
        LocalPorts.bind_proxy(other.getsockname()[1])
    assert "devroute reach --port PORT, or reach_port: PORT" in str(raised.value.hint)


def test_without_a_free_port_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(ports, "derived", lambda to: port)
        with pytest.raises(ConfigInvalid, match=f"1 ports from {port} on are in use"):
            LocalPorts(None, "").bind(C)
