"""The policy for chat APIs plays with another project's server: `transformers serve`, offline, on a CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from toolrl import SamplingParams, Trajectory, make
from toolrl.evaluation import evaluate
from toolrl.policy import Endpoint, OpenAIPolicy
from toolrl.tiny import PATH

pytest.importorskip("fastapi", reason="transformers serve needs: pip install 'transformers[serving]'")
pytest.importorskip("uvicorn", reason="transformers serve needs: pip install 'transformers[serving]'")
pytest.importorskip("openai", reason="transformers serve needs: pip install 'transformers[serving]'")

pytestmark = pytest.mark.slow


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """The address of a server with the embedded model."""
    port = _free_port()
    serve = "from transformers.cli.serve import Serve; import sys; "
    serve += "Serve(sys.argv[1], host='127.0.0.1', port=int(sys.argv[2]), device='cpu', dtype='float32')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", serve, str(PATH), str(port)], stdout=log, stderr=log, env=environment
        )
    try:
        address = f"http://127.0.0.1:{port}"
        while not _answers(f"{address}/health"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()


def test_the_embedded_model_plays_behind_the_api(url: str) -> None:
    env = make("toolrl/PythonMath-v0", split="test")
    policy = OpenAIPolicy(Endpoint(str(PATH), url))
    played: list[Trajectory] = []
    try:
        reports = evaluate(
            {"math": env},
            policy,
            None,
            tasks=4,
            sampling=SamplingParams(0.0, 64),
            on_trajectory=played.append,
            concurrency=2,
        )
    finally:
        policy.close()
        env.close()
    assert reports["math"].unscored == 0
    calls = [result for trajectory in played for result in trajectory.tool_results]
    assert calls, "the embedded model calls tools on most tasks"
    assert {result.call.name for result in calls} == {"python"}
    assert any(result.failure is None for result in calls)
    for trajectory in played:
        assert trajectory.usage["model_requests"] == len(trajectory.turns)
        assert trajectory.usage["model_input_tokens"] > trajectory.usage["model_output_tokens"] > 0


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=2.0).status_code == 200
    except httpx.TransportError:
        return False
