"""Promises of the watch between two runs: what is counted is work, not waiting for a core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from toolrl.sandbox.local.background import ComputeClock

SPINNERS = 4
# One core for a process and its children, which all want it.
CROWDED = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
for _ in range({SPINNERS - 1}):
    if os.fork() == 0:
        break
os.write(1, b"ready\\n")
while True:
    pass
"""


@pytest.fixture
def crowd() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", CROWDED], stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert process.stdout is not None
        for _ in range(SPINNERS):
            assert process.stdout.readline() == "ready\n"
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_the_wait_for_a_core_is_not_counted_as_work(crowd: int) -> None:
    clock = ComputeClock()
    clock.look(crowd, 0.0)
    assert clock.seconds == 0
    start = time.monotonic()
    time.sleep(0.5)
    clock.look(crowd, 0.5)
    assert 0 < clock.seconds <= time.monotonic() - start + 0.1  # of one core, though four processes wanted it


def test_a_process_that_was_not_there_before_counts_for_the_whole_time_since(crowd: int) -> None:
    clock = ComputeClock()
    clock.look(crowd, 0.5)
    assert clock.seconds == SPINNERS * 0.5
