"""`toolrl search serve` as a process: it serves until a signal, and exits with status 0."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_the_server(tmp_path: Path, number: int) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"id": "a", "text": "an apple"}\n{"id": "b", "text": "a pear"}\n')
    command = [sys.executable, "-m", "toolrl", "search", "serve", f"bm25:{tmp_path}/corpus.jsonl", "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as server:
        try:
            url = re.search(r"(http\S+)/retrieve$", server.stdout.readline())[1]
            with httpx.Client(base_url=url) as client:
                reply = client.post("/retrieve", json={"queries": ["apple"], "topk": 1})
                assert reply.json()["result"][0][0]["id"] == "a"
                server.send_signal(number)
                assert server.wait(30) == 0
        finally:
            server.kill()
        assert "Traceback" not in server.stderr.read()
