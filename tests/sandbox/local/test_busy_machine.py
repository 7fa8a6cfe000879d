"""On a busy machine, code is charged for its own time only."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, os, threading, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core for the maximum number of concurrent runs
from toolrl.sandbox import LocalSandbox, SandboxLimits

WORK = "import time\\nwhile time.process_time() < %s: pass\\nprint('done')"
found = {"work": [], "sleep": [], "short": []}

def run(kind, code):
    with LocalSandbox(SandboxLimits(seconds=1.0)) as sandbox:
        started = time.monotonic()
        result = sandbox.run(code)
        found[kind].append((result.error and result.error.name, result.seconds, time.monotonic() - started))
        found["short"] += [sandbox.run("1").seconds for _ in range(5) if kind == "work"]

own = [threading.Thread(target=run, args=("work", WORK % 0.4)) for _ in range(8)]
own += [threading.Thread(target=run, args=("sleep", "import time; time.sleep(60)"))]
for thread in own: thread.start()
for thread in own: thread.join()
print(json.dumps(found))
"""


def test_waiting_for_a_core_does_not_count_and_sleeping_does() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(ran.stdout)
    assert [error for error, _, _ in found["work"]] == [None] * 8
    assert max(wall for _, _, wall in found["work"]) > 1.0  # longer than the limit in wall-clock time
    assert max(seconds for _, seconds, _ in found["work"]) <= 1.0
    assert min(found["short"]) >= 0.0
    [[error, _, wall]] = found["sleep"]
    assert error == "TimeoutError"
    assert wall < 30.0
