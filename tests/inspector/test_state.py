"""What the inspector remembers between two runs: the secret of its cookies, and its port."""

import os
import stat
import time
from pathlib import Path

from devroute.inspector.state import SECRET_SECONDS, InspectorState

PORTS = range(4040, 4044)


def test_the_secret_is_that_of_last_time_for_a_week_and_for_its_owner_only(tmp_path: Path) -> None:
    first = InspectorState(tmp_path, services=["a"]).secret()
    assert len(first) == 32
    assert InspectorState(tmp_path, services=["b"]).secret() == first
    file = tmp_path / "inspector" / "secret"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    old = time.time() - SECRET_SECONDS - 60
    os.utime(file, (old, old))
    second = InspectorState(tmp_path).secret()
    assert second != first
    file.chmod(0o644)  # others have read it
    third = InspectorState(tmp_path).secret()
    assert third != second
    file.write_bytes(b"short")
    assert len(InspectorState(tmp_path).secret()) == 32
    assert InspectorState(None).secret() != InspectorState(None).secret()


def test_a_run_gets_its_port_back_and_leaves_those_of_others(tmp_path: Path) -> None:
    shop = InspectorState(tmp_path, "https://a", "alice", ["shop", "cart"])
    assert shop.ports(PORTS) == list(PORTS)
    shop.used(4041)
    again = InspectorState(tmp_path, "https://a", "alice", ["cart", "shop"])
    assert again.ports(PORTS)[0] == 4041
    other = InspectorState(tmp_path, "https://a", "alice", ["shop"])
    assert other.ports(PORTS) == [4040, 4042, 4043, 4041]
    assert InspectorState(None).ports(PORTS) == list(PORTS)


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "inspector").write_text("a file")
    state = InspectorState(tmp_path, services=["shop"])
    state.used(4040)
    assert len(state.secret()) == 32
    assert state.ports(PORTS) == list(PORTS)
