"""What connections make of the process's memory."""

import subprocess
import sys

#: Pieces of a body that wait, and leave together; how often; and the pages that they have in all.
QUEUED, TURNS = 16, 50
PAGES = QUEUED * TURNS * 25
PROGRAM = f"""
import resource
from devroute.http.aio.connection import RECEIVE_BYTES

def turn():
    queue = [bytes(RECEIVE_BYTES) for _ in range({QUEUED})]
    queue.clear()

turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TURNS}):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pieces_that_queue_up_and_leave_get_the_same_memory_again() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(said.stdout) < PAGES / 10
