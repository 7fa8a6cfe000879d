"""Viewing 100,000 episodes of four turns: the index, queries, reports and the local page, against `json.loads`.

`EPISODES=1000 python -m tests.benchmarks view` does fewer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from tests.benchmarks.common import table
from toolrl import Message, Sample, Score, StopReason, ToolCall, ToolResult, Trajectory, TrajectoryWriter, load
from toolrl.trajectory import Turn

EPISODES = int(os.environ.get("EPISODES", "100000"))
QUERIES = (
    "success == 0 and calls('python') > 2 and stop == 'limit'",
    "0.2 < pass_rate < 0.8",
    "'number 4' in prompt",
)


def make_run(folder: Path, episodes: int = EPISODES) -> Path:
    """Write a run of training: groups of eight, three calls and an answer each."""
    code, output = "print(sum(range(1000)))\n" * 6, "499500\n" * 12
    turns = []
    for place in range(3):
        call = ToolCall("python", {"code": code}, f"call_{place}_0", raw=code)
        sample = Sample(list(range(100, 180)), [-0.125] * 80)
        turns.append(Turn(sample, Message("assistant", "", (call,)), (ToolResult(call, output),), (7,) * 60, 0.5, 0.1))
    turns.append(Turn(Sample([5] * 20, [-0.5] * 20), Message("assistant", "<answer>499500</answer>")))
    template = Trajectory(
        "", "toolrl/PythonMath-v0", "", (), [1] * 120, tuple(turns), Score(0.0), StopReason.ANSWER, seconds=2.0
    )
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        for number in range(episodes):
            group, right = number // 8, float(number * 7 % 11 < 5)
            info = {"mode": "train", "step": group // 8, "session": "s", "group": f"{group}", "needs_tool": True}
            info["kind"] = f"kind {group % 8}"
            writer.write(
                dataclasses.replace(
                    template,
                    id=f"train/{number}",
                    task_id=f"task-{group % 5000}",
                    prompt=(Message("user", f"What is number {group % 5000}?"),),
                    score=Score(right * 0.7, {"correct": right}, "499500", "right" if right else "wrong"),
                    stop=StopReason.TURNS if number % 9 == 0 and not right else StopReason.ANSWER,
                    info=info,
                )
            )
    return folder


def clocked(work: Callable[[], object], times: int = 1) -> float:
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def in_a_process(code: str, run: Path) -> tuple[float, float]:
    """The seconds a piece of code takes in a fresh process, without imports, and its peak memory in MiB."""
    script = f"""
import json, resource, time
import pandas, toolrl.view, pyarrow.compute
run = {str(run)!r}
start = time.perf_counter()
{code}
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, memory = result.stdout.split()[-2:]
    return float(seconds), float(memory)


def page_times(run: Path) -> tuple[list[list[str]], float]:
    """The time `toolrl view` takes for each page, the first time and repeated, and its peak memory in MiB."""
    command = [sys.executable, "-m", "toolrl", "view", str(run), "--no_browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = urlsplit(server.stdout.readline().strip())
        connection = HTTPConnection(address.hostname or "", address.port)

        def get(path: str, **headers: str) -> HTTPResponse:
            connection.request("GET", path, headers=headers)
            reply = connection.getresponse()
            reply.read()
            assert reply.status == 200, path
            return reply

        cookie = str(get(f"/?{address.query}").headers["Set-Cookie"]).split(";")[0]
        last = f"/run?page={EPISODES // 50}"
        pages = {"the run": "/run", "its last page": last, "its last page, by tokens": f"{last}&sort=-tokens"}
        pages |= {f"`{query}`": f"/run?{urlencode({'where': query})}" for query in QUERIES}
        pages |= {
            "an episode among those of a query": f"/episode?{urlencode({'id': 'train/7', 'where': QUERIES[1]})}",
            "all rollouts of a task": f"/group?{urlencode({'env': 'toolrl/PythonMath-v0', 'task': 'task-7'})}",
            "two halves, task by task": f"/compare?{urlencode({'aw': 'step < 700', 'bw': 'step >= 700'})}",
        }
        rows = []
        for name, path in pages.items():
            first, again = (clocked(lambda path=path: get(path, Cookie=cookie), n) for n in (1, 5))  # type: ignore[misc]
            rows.append([name, f"{first * 1000:.0f} ms", f"{again * 1000:.0f} ms"])
        status = Path(f"/proc/{server.pid}/status").read_text()
        server.terminate()
    return rows, int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run")
        size = (run / "trajectories.jsonl").stat().st_size
        rows: list[list[str]] = []

        def add(what: str, seconds: float, memory: float | None = None) -> None:
            shown = f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"
            rows.append([what, shown, "-" if memory is None else f"{memory:,.0f} MiB"])

        lines = 'pandas.DataFrame([json.loads(line) for line in open(run + "/trajectories.jsonl")])'
        if size < 2 << 30:
            add("json.loads of each line, into pandas", *in_a_process(lines, run))
        add("load, building the index", *in_a_process("toolrl.view.load(run)", run))
        add("load, with a stored index", *in_a_process("toolrl.view.load(run)", run))
        add("load, into pandas", *in_a_process("toolrl.view.load(run).to_pandas()", run))
        reported = "report_on(toolrl.view.load(run), by=('kind',)).page_html()"
        add("a report with its page", *in_a_process(f"from toolrl.view.report import report_on\n{reported}", run))
        halves = "e.where('step < 700').compare(e.where('step >= 700'), names=('a', 'b'))"
        add("two halves compared", *in_a_process(f"e = toolrl.view.load(run)\n{halves}", run))
        episodes = load(run)
        for query in QUERIES:
            add(f"`{query}`: {len(episodes.where(query)):,}", clocked(lambda query=query: episodes.where(query), 5))  # type: ignore[misc]
        add("sort by reward", clocked(lambda: episodes.sort("reward"), 5))
        add("a page of 50 in the middle", clocked(lambda: episodes[50_000:50_050].table.to_pylist(), 5))
        add("open an episode", clocked(lambda: episodes[len(episodes) // 2], 5))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        title = f"{EPISODES:,} episodes of four turns, {size / 1e9:.1f} GB (this process at most {memory:,.0f} MiB)"
        pages, highest = page_times(run)
        page_title = f"The local page over them (the server at most {highest:,.0f} MiB)"
        return "\n\n".join(
            [
                table(title, ["what", "time", "peak memory"], rows),
                table(page_title, ["page", "first", "again"], pages),
            ]
        )


if __name__ == "__main__":
    print(json.dumps({"run": str(make_run(Path(sys.argv[1])))}))
