"""Ports that tests and the demo hand out before a program listens on them."""

import subprocess
import sys

from devroute.mesh.testbed import PORTS_IN_BLOCK

ASKED = 150
ASK = f"""
from devroute.mesh.testbed import free_port
print(*[free_port() for _ in range({ASKED})], flush=True)
input()
"""


def test_no_port_is_handed_out_twice() -> None:
    assert PORTS_IN_BLOCK < ASKED < 2 * PORTS_IN_BLOCK
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    given = [each.stdout.readline().split() for each in processes if each.stdout is not None]
    for each in processes:
        each.communicate("\n")
    ports = [port for line in given for port in line]
    assert len(ports) == len(set(ports)) == 3 * ASKED
