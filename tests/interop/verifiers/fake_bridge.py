"""Answers as the bridge does, without verifiers: `python fake_bridge.py SETTINGS`. Standard library only."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

SETTINGS = json.loads(sys.argv[1])
TASKSET = SETTINGS["taskset"]
writing = threading.Lock()


def answer(request: dict[str, Any], **fields: Any) -> None:
    with writing:
        print(json.dumps({"id": request["id"], **fields}), flush=True)


def asked(request: dict[str, Any]) -> str:
    """The model's answer."""
    messages = [{"role": "user", "content": f"What is {request['index']} + 40?"}]
    body = json.dumps({"model": request["model"], "messages": messages}).encode()
    headers = {"Authorization": f"Bearer {request['api_key']}", "Content-Type": "application/json"}
    sent = urllib.request.Request(f"{request['base_url']}/chat/completions", body, headers)
    with urllib.request.urlopen(sent, timeout=30) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def run(request: dict[str, Any]) -> None:
    said = asked(request)
    kind = TASKSET.get("kind", "")
    if kind == "dies":
        os._exit(3)
    if kind == "hangs":
        time.sleep(1000)
    faults = {"breaks": "environment", "full": "policy"}
    if kind in faults:
        answer(request, reward=None, metrics={}, error="SandboxError: gone", fault=faults[kind])
    elif kind == "silent":
        answer(request, reward=None, metrics={}, error="", fault="", stop="agent_completed")
    elif kind == "raises":
        answer(request, failed="LookupError: it has changed", settings=False)
    elif kind == "babbles":
        with writing:
            print("this is not an answer", flush=True)
    else:
        reward = float(said == str(request["index"] + 40))
        answer(
            request, reward=reward, metrics={"right": reward, "gold": 1.0}, error="", fault="", stop="agent_completed"
        )


def main() -> None:
    if TASKSET.get("starts"):
        subprocess.Popen(["sleep", str(TASKSET["starts"])], start_new_session=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "tasks":
            if TASKSET.get("kind") == "slow":
                time.sleep(1000)
            if TASKSET["id"] == "missing":
                answer(request, failed="ModuleNotFoundError: taskset 'missing' not found", settings=True)
                continue
            count = min(SETTINGS["most"] or 8, 8)
            rows = [
                {"index": n, "key": f"k{n}", "id": None, "name": None, "prompt": f"{n} + 40?"} for n in range(count)
            ]
            answer(request, tasks=rows)
        elif request["do"] == "run":
            threading.Thread(target=run, args=(request,), daemon=True).start()
        elif TASKSET.get("kind") != "hangs":
            answer(request)


if __name__ == "__main__":
    main()
