"""Random faults on a Ray cluster, here three nodes on one machine: is an episode lost, counted twice, or scored for it?

`toolrl eval` plays two thousand oracle episodes, half of a tool that waits and half with code in sandboxes, on four
workers, while ten of each kind of fault hit it. A driver that is killed is started again with `--resume`.
CLUSTER_FAULTS "10" of each kind, CLUSTER_EPISODES "2000".
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.common import table
from tests.distributed.waiting import ENV_ID as PLAIN_ID
from toolrl import read_trajectories

WAITING, CODE = f"tests.distributed.waiting:{PLAIN_ID}", "toolrl/PythonMath-v0"
FAULTS = int(os.environ.get("CLUSTER_FAULTS", "10"))
EPISODES = int(os.environ.get("CLUSTER_EPISODES", "2000"))
NODES, WORKERS, SILENCE_SECONDS, STORE_BYTES = 3, 4, 6.0, 100_000_000
PAUSE_SECONDS = (2.0, 5.0)  # between two faults
LIMIT_SECONDS = 1800.0


class Run:
    """A cluster, and the evaluation that runs on it."""

    def __init__(self, folder: Path):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self.nodes = [self._node() for _ in range(NODES)]
        self.out, self.errors = folder / "played.jsonl", folder / "errors.txt"
        self.rng = random.Random(0)
        self.starts = 0
        self.driver = self.start()

    def _node(self) -> Any:
        return self.cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)

    def start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        settings = {WAITING: {"count": EPISODES // 2, "seconds": 1.2}, CODE: {"size": EPISODES // 2}}
        command = [
            sys.executable, "-m", "toolrl", "eval", WAITING, CODE, "--policy", "oracle", "--split", "train",
            "--tasks", str(EPISODES // 2), "--env_settings", json.dumps(settings), "--out", str(self.out), "--resume",
            "--rollout_workers", str(WORKERS), "--ray_address", str(self.cluster.address), "--concurrency", "1",
            "--worker_silence_seconds", str(SILENCE_SECONDS),
        ]  # fmt: skip
        with self.errors.open("ab") as errors:
            return subprocess.Popen(command, stdout=errors, stderr=errors)

    def workers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            if any("RolloutWorker" in word for word in process.info["cmdline"] or ()):
                found.append(process)
        return found

    def signal_one(self, number: signal.Signals) -> bool:
        workers = self.workers()
        if workers:
            self.rng.choice(workers).send_signal(number)
        return bool(workers)

    # ---- kinds of faults; each says whether it struck

    def lose_a_node(self) -> bool:
        self.cluster.remove_node(self.nodes.pop(self.rng.randrange(NODES)), allow_graceful=False)
        self.nodes.append(self._node())
        return True

    def kill_a_worker(self) -> bool:
        return self.signal_one(signal.SIGKILL)

    def freeze_a_worker(self) -> bool:
        return self.signal_one(signal.SIGSTOP)

    def slow_a_worker_down(self) -> bool:
        workers = self.workers()
        if workers:
            slow = self.rng.choice(workers)
            for _ in range(10):  # a fifth of its speed
                try:
                    slow.suspend()
                    time.sleep(0.4)
                    slow.resume()
                    time.sleep(0.1)
                except psutil.Error:  # lost for another reason
                    break
        return bool(workers)

    def kill_the_driver(self) -> bool:
        self.driver.kill()
        self.driver.wait()
        self.driver = self.start()
        return True

    def fill_the_object_store(self) -> bool:
        filler = f"""
import os, ray, time
ray.init(address={str(self.cluster.address)!r}, include_dashboard=False, log_to_driver=False)
@ray.remote(num_cpus=0, scheduling_strategy="SPREAD")
def fill():
    held = [ray.put(os.urandom({STORE_BYTES // 8})) for _ in range(12)]  # half as much again as fits
    time.sleep(2)
    return len(held)
print(ray.get([fill.remote() for _ in range({NODES})], timeout=60))
"""
        return subprocess.run([sys.executable, "-c", filler], capture_output=True, timeout=120).returncode == 0

    def close(self) -> None:
        self.driver.kill()
        self.driver.wait()
        self.cluster.shutdown()


KINDS: dict[str, Callable[[Run], bool]] = {
    "node removed without grace": Run.lose_a_node,
    "worker killed": Run.kill_a_worker,
    "worker frozen": Run.freeze_a_worker,
    "worker slowed down": Run.slow_a_worker_down,
    "driver killed and resumed": Run.kill_the_driver,
    "object store filled": Run.fill_the_object_store,
}


def main() -> str:
    before = set(psutil.process_iter())
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        try:
            struck, seconds = strike(run)
            played = list(read_trajectories(run.out))
            left = [process for process in run.workers() if process not in before]
        except BaseException:
            print(run.errors.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            run.close()
    time.sleep(10)  # for Ray's own processes
    left += [p for p in psutil.process_iter() if p not in before and p.pid != os.getpid() and is_left(p)]
    counts = Counter(trajectory.id for trajectory in played)
    rows = [
        ["faults", ", ".join(f"{kind} {count}" for kind, count in struck.items())],
        ["seconds", f"{seconds:.0f}"],
        ["episodes lost", f"{EPISODES - len(counts)}"],
        ["episodes counted twice", f"{sum(count > 1 for count in counts.values())}"],
        ["scored as failures", f"{sum(t.score.value is not None and not t.score.success for t in played)}"],
        ["unscored", f"{sum(t.score.value is None for t in played)}"],
        ["starts of the driver", f"{run.starts}"],
        ["processes left behind", f"{len(left)}"],
    ]
    return table(f"{EPISODES:,} episodes under random faults", ["", ""], rows)


def strike(run: Run) -> tuple[Counter[str], float]:
    """Hit the run until each kind of fault has struck as often as it should, and wait for its end."""
    struck: Counter[str] = Counter()
    start = time.monotonic()
    plan = [kind for kind in KINDS for _ in range(FAULTS)]
    run.rng.shuffle(plan)
    time.sleep(15)
    while run.driver.poll() is None:
        if time.monotonic() - start > LIMIT_SECONDS:
            raise TimeoutError(f"the run did not end; struck: {struck}")
        if plan:
            kind = plan[-1]
            if KINDS[kind](run):
                struck[kind] += 1
                plan.pop()
                print(f"{time.monotonic() - start:.0f} s: {kind}", flush=True)
            time.sleep(run.rng.uniform(*PAUSE_SECONDS))
        else:
            time.sleep(0.5)
    if run.driver.returncode:
        raise RuntimeError(f"the driver ended with {run.driver.returncode}")
    return struck, time.monotonic() - start


def is_left(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and any(word in line for word in ("ray", "toolrl"))
    except psutil.Error:
        return False
