"""An MCP server written by hand, so that it can break every rule. `python raw_server.py '[tools]'`.

It starts in a twentieth of the time of one made with the SDK. What it does with a call is decided by its arguments.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

ANYTHING = {"type": "object", "properties": {}}


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def send(**fields: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **fields}))


def main() -> None:
    tools = json.loads(sys.argv[1]) if len(sys.argv) > 1 else []
    tools = [{"name": "act", "description": "Act.", "inputSchema": ANYTHING}, *tools]
    while line := sys.stdin.readline():
        message = json.loads(line)
        method, number = message["method"], message.get("id")
        if number is None:
            continue
        if method == "initialize":
            capabilities = {"tools": {"listChanged": True}}
            version, info = message["params"]["protocolVersion"], {"name": "raw", "version": "1"}
            send(id=number, result={"protocolVersion": version, "capabilities": capabilities, "serverInfo": info})
        elif method == "tools/list":
            at = int(message.get("params", {}).get("cursor", 0))
            end = at + (1 if len(tools) < 10 else 50)
            more = {"nextCursor": str(end)} if end < len(tools) else {}
            send(id=number, result={"tools": tools[at:end], **more})
        elif method == "tools/call":
            call(number, message["params"]["arguments"], tools)
        else:
            send(id=number, error={"code": -32601, "message": "no such method"})


def call(number: int, do: dict[str, Any], tools: list[dict[str, Any]]) -> None:
    result: dict[str, Any] = {"content": [{"type": "text", "text": do.get("text", "done")}]}
    if "env" in do:
        result["content"][0]["text"] = json.dumps(dict(os.environ))
    if "result" in do:
        result = do["result"]
    if "big" in do:
        result["content"][0]["text"] = "x" * do["big"]
    if "spawn" in do:
        pids = [os.getpid()]
        import subprocess  # takes as long to import as all the rest

        for alone in (False, True):
            child = subprocess.Popen(["sleep", "600"], stdin=-3, stdout=-3, stderr=-3, start_new_session=alone)
            pids.append(child.pid)
        result["content"][0]["text"] = json.dumps(pids)
    if "stderr" in do:
        print(do["stderr"], file=sys.stderr, flush=True)
    if "once" in do and not os.path.exists(do["once"]):
        open(do["once"], "x").close()
        os._exit(9)
    if "exit" in do:
        os._exit(do["exit"])
    if "hang" in do:
        time.sleep(600)
    if "tools" in do:
        tools[:] = do["tools"]
    if "notify" in do:
        send(method="notifications/tools/list_changed")
    if "line" in do:
        write(do["line"].replace("ID", str(number)))
    if "error" in do:
        send(id=number, error={"code": do["error"], "message": do.get("text", "failed")})
    elif "silent" not in do:
        send(id=number, result=result)


main()
