"""Processes share a rate limit, even if one of them is killed."""

import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from toolrl.errors import ConfigError
from toolrl.support.rate_limit import FARTHEST_SECONDS, RateLimit, runtime_folder

RESERVES = """
import sys, time
from pathlib import Path
from toolrl.support.rate_limit import RateLimit
limit = RateLimit("shared", 200.0, folder=Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(20):
    asked = time.monotonic()
    wait = limit.reserve(60.0)
    print(asked, time.monotonic() + wait)
"""


def test_the_first_slot_is_now_and_later_ones_are_spaced(tmp_path):
    limit = RateLimit("a", 0.1, folder=tmp_path)
    assert limit.reserve(100) == 0
    assert limit.reserve(100) == pytest.approx(10, abs=1)
    assert limit.reserve(100) == pytest.approx(20, abs=1)


def test_names_do_not_share_a_rate(tmp_path):
    assert RateLimit("a", 0.1, folder=tmp_path).reserve(100) == 0
    assert RateLimit("b", 0.1, folder=tmp_path).reserve(100) == 0


def test_a_burst_goes_through_after_a_pause_and_no_more(tmp_path):
    limit = RateLimit("a", 0.1, burst=3, folder=tmp_path)
    waits = [limit.reserve(100) for _ in range(4)]
    assert waits[:3] == [0, 0, 0]
    assert waits[3] == pytest.approx(10, abs=1)


def test_no_slot_is_reserved_that_comes_too_late(tmp_path):
    limit = RateLimit("a", 0.1, folder=tmp_path)
    limit.reserve(100)
    assert limit.reserve(1) is None
    assert limit.reserve(100) == pytest.approx(10, abs=1)  # the refused call took no slot


def test_several_processes_keep_to_the_rate_together(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RESERVES, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    lines = [line.split() for process in processes for line in process.communicate("\n")[0].splitlines()]
    assert len(lines) == 80
    # 80 slots at 200 per second span 79 intervals.
    assert max(float(booked) for _, booked in lines) - min(float(asked) for asked, _ in lines) >= 79 / 200


def test_threads_of_one_process_keep_to_the_rate_together(tmp_path):
    limit = RateLimit("a", 0.1, folder=tmp_path)
    with ThreadPoolExecutor(8) as threads:
        waits = sorted(threads.map(lambda _: limit.reserve(1000), range(16)))
    assert waits == pytest.approx([10 * number for number in range(16)], abs=5)


def test_a_killed_holder_of_the_lock_stops_nobody(tmp_path):
    limit = RateLimit("a", 1000, folder=tmp_path)
    limit.reserve(100)
    (file,) = tmp_path.iterdir()
    # A shared lock, which only excludes exclusive ones.
    code = "import fcntl,sys,time; f=open(sys.argv[1],'r+'); fcntl.flock(f,1); print('held',flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        assert limit.reserve(0.2) is None  # no endless wait for a stopped holder
        holder.send_signal(signal.SIGKILL)
    assert limit.reserve(0.2) is not None


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 52, b"x" * 1000])
def test_a_broken_file_is_ignored(tmp_path, content):
    limit = RateLimit("a", 0.1, folder=tmp_path)
    limit.reserve(100)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    assert limit.reserve(0) == 0


def test_a_file_from_before_a_restart_is_ignored(tmp_path):
    limit = RateLimit("a", 0.001, folder=tmp_path)
    limit.reserve(100)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"0" * 36 + file.read_bytes()[36:])
    assert limit.reserve(0) == 0


def test_a_hold_stops_other_processes_for_a_bounded_time(tmp_path):
    RateLimit("a", 100, folder=tmp_path).hold(50)
    other = RateLimit("a", 100, folder=tmp_path)
    assert other.reserve(1) is None
    assert other.held_seconds() == pytest.approx(50, abs=5)
    assert other.reserve(100) == pytest.approx(50, abs=5)
    other.hold(math.inf)
    assert 0 < other.reserve(FARTHEST_SECONDS) <= FARTHEST_SECONDS


def test_a_hold_does_not_free_reserved_slots(tmp_path):
    limit = RateLimit("a", 0.01, folder=tmp_path)
    limit.reserve(0)
    limit.hold(1)
    assert limit.reserve(1000) > 50


def test_the_folder_is_private_to_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = runtime_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    RateLimit("a", 1).reserve(0)
    assert [file.stat().st_mode & 0o077 for file in folder.iterdir()] == [0]


def test_a_link_in_place_of_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "toolrl")
    with pytest.raises(ConfigError, match="another user"):
        runtime_folder()


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0)])
def test_invalid_rates_are_refused(tmp_path, rate, burst):
    with pytest.raises(ConfigError):
        RateLimit("a", rate, burst=burst, folder=tmp_path)


def test_the_clock_is_the_one_that_processes_share():
    code = "import time; print(time.monotonic())"
    before = time.monotonic()
    there = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert before <= there <= time.monotonic()
