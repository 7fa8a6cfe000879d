"""Promises about workers on a real Ray cluster of several nodes, here on one machine: `make test-ray`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import psutil
import pytest
from typer.testing import CliRunner

from tests.distributed.waiting import ENV_ID
from toolrl import Renderer, SamplingParams, Task, ToolEnv, Trajectory, make, read_trajectories, say
from toolrl.cli import app
from toolrl.distributed import Playing, PoolSettings, RolloutPool
from toolrl.distributed.cluster import WorkerLost
from toolrl.distributed.settings import parse_services
from toolrl.distributed.worker import RolloutWorker
from toolrl.errors import ConfigError, PolicyFault
from toolrl.evaluation import evaluate
from toolrl.policy import PolicySettings
from toolrl.policy.models import load_model, load_tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

# With the module that registers it, which a worker imports.
WAITING, BUGGY = f"tests.distributed.waiting:{ENV_ID}", "tests.distributed.test_pool:tests/Buggy-v0"
NODES = 3


def make_buggy(**_: Any) -> ToolEnv:
    return ToolEnv(tasks=[Task("t", "?", "1")], reward=lambda task, episode: 1 / 0, oracle=lambda task: [say("1")])


if "tests/Buggy-v0" not in gymnasium.registry:
    gymnasium.register("tests/Buggy-v0", entry_point=make_buggy)


class Nodes:
    """A cluster of three nodes, and this process as its driver."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        quiet = {"include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **quiet})
        self.added = [self.cluster.add_node(num_cpus=2) for _ in range(NODES)]
        self.address = str(self.cluster.address)

    def close(self) -> None:
        if ray.is_initialized():
            ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.close()


OpenPool = Callable[..., RolloutPool]


@pytest.fixture
def open_pool(nodes: Nodes) -> Iterator[OpenPool]:
    opened: list[RolloutPool] = []

    def make_pool(playing: Playing | None = None, workers: int = 4, **settings: Any) -> RolloutPool:
        opened.append(
            RolloutPool(playing or oracle(), PoolSettings(workers=workers, address=nodes.address, **settings))
        )
        return opened[-1]

    yield make_pool
    for pool in opened:
        pool.close()


def oracle() -> Playing:
    return Playing(None, Renderer(load_tokenizer("tiny")).parts(), SamplingParams(1.0, sys.maxsize))


def rows(trajectories: list[Trajectory]) -> list[dict[str, Any]]:
    """As they are recorded, without times."""
    found = []
    for trajectory in sorted(trajectories, key=lambda t: t.id):
        turns = []
        for turn in trajectory.turns:
            results = tuple(replace(result, seconds=0.0) for result in turn.results)
            turns.append(replace(turn, generation_seconds=0.0, tool_seconds=0.0, results=results))
        found.append(replace(trajectory, seconds=0.0, turns=tuple(turns), usage={}).to_row())
    return found


def workers_of(pool: RolloutPool) -> dict[int, int]:
    """The process id of each slot's worker."""
    return {slot.number: slot.about["pid"] for slot in pool._workers.ready}


def eventually(check: Callable[[], Any], seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)
    return found


def test_results_are_those_of_one_process(open_pool: OpenPool) -> None:
    settings = {"toolrl/PythonMath-v0": {"size": 60}, "toolrl/DocsSearch-v0": {"size": 30}}
    environments = {env_id: make(env_id, split="test", **some) for env_id, some in settings.items()}
    info = {"session": "s"}
    here: list[Trajectory] = []
    there: list[Trajectory] = []
    renderer = Renderer(load_tokenizer("tiny"))
    one = evaluate(environments, None, renderer, tasks=30, samples=2, info=info, on_trajectory=here.append)
    pool = open_pool()
    many = evaluate(
        environments, None, renderer, tasks=30, samples=2, info=info, on_trajectory=there.append, workers=pool
    )
    assert rows(here) == rows(there)
    assert len(there) == 120
    for env_id, report in one.items():
        assert replace(report, usage={}) == replace(many[env_id], usage={})
    for env in environments.values():
        env.close()


def test_a_policy_is_opened_by_each_worker_and_gets_new_weights(open_pool: OpenPool) -> None:
    renderer = Renderer(load_tokenizer("tiny"))
    playing = Playing(PolicySettings(model="tiny", seed=0), renderer.parts(), SamplingParams(0.6, 32))
    env = make("toolrl/PythonMath-v0", split="test", size=40)
    pool = open_pool(playing, workers=2)
    before = evaluate({"e": env}, None, renderer, tasks=16, workers=pool)["e"]
    assert before.unscored == 0
    assert before.calls > 0
    model = load_model("tiny")
    pool.update_weights((name, weight * 0) for name, weight in model.named_parameters())
    played: list[Trajectory] = []
    evaluate({"e": env}, None, renderer, tasks=16, workers=pool, on_trajectory=played.append)
    env.close()
    assert {turn.sample.policy_version for t in played for turn in t.turns} == {1}
    assert sum(bool(t.score.success) for t in played) == 0
    # A worker that joins later has them before its first turn.
    os.kill(next(iter(workers_of(pool).values())), signal.SIGKILL)
    eventually(lambda: pool.losses and len(workers_of(pool)) == 2)
    env = make("toolrl/PythonMath-v0", split="test", size=40)
    again: list[Trajectory] = []
    evaluate({"e": env}, None, renderer, tasks=16, workers=pool, on_trajectory=again.append)
    env.close()
    assert {turn.sample.policy_version for t in again for turn in t.turns} == {1}


def kill(pool: RolloutPool, nodes: Nodes) -> None:
    os.kill(next(iter(workers_of(pool).values())), signal.SIGKILL)


def freeze(pool: RolloutPool, nodes: Nodes) -> None:
    os.kill(next(iter(workers_of(pool).values())), signal.SIGSTOP)


def lose_node(pool: RolloutPool, nodes: Nodes) -> None:
    nodes.cluster.remove_node(nodes.added.pop(), allow_graceful=False)


@pytest.mark.parametrize("harm", [kill, freeze, lose_node])
def test_what_a_lost_worker_played_is_played_elsewhere_and_counts_once(
    open_pool: OpenPool, nodes: Nodes, harm: Callable[[RolloutPool, Nodes], None]
) -> None:
    env = make(WAITING, count=200, seconds=0.3)
    pool = open_pool(silence_seconds=3.0, concurrency=8)
    played: list[Trajectory] = []
    done = threading.Event()

    def run() -> None:
        evaluate({WAITING: env}, None, None, tasks=200, workers=pool, on_trajectory=played.append)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: len(played) > 20)
    harm(pool, nodes)
    assert done.wait(120)
    thread.join()
    env.close()
    assert Counter(t.task_id for t in played) == Counter(f"t{n}" for n in range(200))
    assert all(t.score.success for t in played)
    assert sum(pool.losses.values()) >= 1
    assert "lost: " in pool.status()


def test_an_episode_that_takes_every_worker_down_is_a_fault_and_not_a_failure(open_pool: OpenPool) -> None:
    env = make(WAITING, count=1, seconds=60.0)
    pool = open_pool(workers=1, attempts=2)
    played: list[Trajectory] = []
    thread = threading.Thread(
        target=lambda: evaluate({WAITING: env}, None, None, tasks=1, workers=pool, on_trajectory=played.append)
    )
    thread.start()
    for losses in (1, 2):
        eventually(lambda: any(slot.given for slot in pool._workers.slots) and workers_of(pool))
        os.kill(next(iter(workers_of(pool).values())), signal.SIGKILL)
        eventually(lambda losses=losses: sum(pool.losses.values()) == losses)  # type: ignore[misc]
    thread.join(60)
    env.close()
    (episode,) = played
    assert episode.score.value is None
    assert episode.error.startswith("WorkerLost: 2 workers were lost")


def test_a_bug_ends_the_run_and_names_its_node(open_pool: OpenPool) -> None:
    env = make(BUGGY)
    with pytest.raises((ZeroDivisionError, RuntimeError)) as raised:
        evaluate({BUGGY: env}, None, None, tasks=1, workers=open_pool(workers=1))
    env.close()
    assert "division by zero" in str(raised.value)


def test_what_cannot_work_is_one_clear_error(nodes: Nodes, open_pool: OpenPool) -> None:
    with pytest.raises(ConfigError, match=r"a worker takes 1 of 'quantum', which no node has: .* 0"):
        open_pool(resources={"CPU": 1, "quantum": 1})
    with pytest.raises(ConfigError, match=r"takes 99 of 'CPU'"):
        open_pool(resources={"CPU": 99})
    env = make("toolrl/PythonMath-v0", size=5)
    bad = replace(oracle(), policy=PolicySettings(model="no/such-model-anywhere"))
    with pytest.raises(ConfigError, match="no/such-model-anywhere"):
        evaluate({"e": env}, None, None, tasks=1, workers=open_pool(bad, workers=1))
    env.close()


def test_workers_that_never_start_end_the_run(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def start(self: RolloutWorker, *_: Any) -> None:
        raise PolicyFault("the model's server is down")

    monkeypatch.setattr(RolloutWorker, "start", start)
    pool = RolloutPool(oracle(), PoolSettings(workers=1, address=nodes.address, attempts=2))
    env = make("toolrl/PythonMath-v0", size=5)
    with pytest.raises(WorkerLost, match=r"2 workers in a row did not start.*the model's server is down"):
        evaluate({"e": env}, None, None, tasks=1, workers=pool)
    env.close()
    pool.close()


def test_a_missing_cluster_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127.0.0.1:1'.*ray start --head"):
        RolloutPool(oracle(), PoolSettings(workers=1, address="127.0.0.1:1"))


def test_a_node_that_joins_is_used(nodes: Nodes, open_pool: OpenPool) -> None:
    env = make(WAITING, count=200, seconds=0.2)
    pool = open_pool(workers=2 * NODES + 2, concurrency=4)
    thread = threading.Thread(target=lambda: evaluate({WAITING: env}, None, None, tasks=200, workers=pool))
    thread.start()
    eventually(lambda: len(workers_of(pool)) == 2 * NODES)
    nodes.cluster.add_node(num_cpus=2)
    eventually(lambda: len(workers_of(pool)) == 2 * NODES + 2)
    thread.join()
    env.close()


def test_the_command_evaluates_on_workers_of_its_own(tmp_path: Path) -> None:
    command = ["eval", "toolrl/PythonMath-v0", "--policy", "oracle", "--tasks", "20", "--json"]
    results = []
    for name, further in (("one", []), ("two", ["--rollout_workers", "2"])):
        out = tmp_path / f"{name}.jsonl"
        done = CliRunner().invoke(app, [*command, "--out", str(out), *further], catch_exceptions=False)
        assert done.exit_code == 0
        found = json.loads(done.stdout)["toolrl/PythonMath-v0"]
        results.append({**found, "usage": {}})
        assert len(list(read_trajectories(out))) == 20
    assert results[0] == results[1]
    assert not ray.is_initialized()


def ray_processes() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if "ray::" in line or "raylet" in line or "gcs_server" in line:
            found.append(process)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_driver_that_ends_in_any_way(tmp_path: Path, number: signal.Signals) -> None:
    before = set(ray_processes())
    command = [sys.executable, "-m", "toolrl", "eval", WAITING, "--policy", "oracle", "--rollout_workers", "2"]
    command += ["--tasks", "40", "--env_settings", json.dumps({WAITING: {"seconds": 30}})]
    with (tmp_path / "err").open("w") as err:
        driver = subprocess.Popen(command, stdout=err, stderr=err, cwd=Path(__file__).parents[2])
    try:
        eventually(lambda: sum("RolloutWorker" in " ".join(p.cmdline()) for p in new(before)) == 2 or driver.poll())
        time.sleep(5)  # by now they play
        assert driver.poll() is None, (tmp_path / "err").read_text()
        driver.send_signal(number)
        driver.wait(60)
        eventually(lambda: not new(before), 150)  # two of Ray's own agents take a minute to notice a kill
    finally:
        driver.kill()
        driver.wait()


def new(before: set[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in ray_processes():
        try:
            if process not in before and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


# ---- engines and services


def with_engines(open_pool: OpenPool, **settings: Any) -> RolloutPool:
    playing = Playing(
        PolicySettings(model="tiny", seed=0), Renderer(load_tokenizer("tiny")).parts(), SamplingParams(0.6, 48)
    )
    return open_pool(playing, workers=2, engines=2, **settings)


@pytest.mark.timeout(200)
def test_engines_sample_for_all_workers_and_one_that_dies_is_replaced(open_pool: OpenPool) -> None:
    pool = with_engines(open_pool)
    env = make("toolrl/PythonMath-v0", split="test", size=200)
    model = load_model("tiny")
    pool.update_weights(model.named_parameters())
    played: list[Trajectory] = []
    arguments = {"tasks": 200, "workers": pool, "on_trajectory": played.append}
    thread = threading.Thread(target=lambda: evaluate({"e": env}, None, None, **arguments))
    thread.start()
    eventually(lambda: len(played) > 10 and "2 of 2 engines" in pool.status())
    os.kill(pool._engines.ready[0].about["pid"], signal.SIGKILL)
    thread.join(120)
    assert Counter(t.task_id for t in played) == Counter(task.id for task in env.tasks.take(200))
    assert all(t.score.value is not None for t in played)
    assert {turn.sample.policy_version for t in played for turn in t.turns} == {1}
    eventually(lambda: len(pool._engines.ready) == 2)
    pool.update_weights((name, weight * 0) for name, weight in model.named_parameters())
    played.clear()
    evaluate({"e": env}, None, None, **{**arguments, "tasks": 8})  # type: ignore[arg-type]
    env.close()
    assert {turn.sample.policy_version for t in played for turn in t.turns} == {2}
    assert sum(bool(t.score.success) for t in played) == 0


def test_services_are_offered_to_tools_and_replaced(open_pool: OpenPool) -> None:
    services = parse_services({"docs": {"retriever": "bm25:python-docs", "count": 2}})
    pool = open_pool(workers=2, services=services, silence_seconds=5.0)
    env_id = "toolrl/DocsSearch-v0"
    # Here nobody offers it; the driver itself never searches.
    env = make(env_id, split="test", size=60, retriever="service:docs")
    played: list[Trajectory] = []
    evaluate({env_id: env}, None, None, tasks=20, workers=pool, on_trajectory=played.append)
    assert all(t.score.success for t in played)
    os.kill(pool._services[0].ready[0].about["pid"], signal.SIGKILL)
    eventually(lambda: sum(pool.losses.values()) == 1 and len(pool._services[0].ready) == 2)
    evaluate({env_id: env}, None, None, tasks=20, workers=pool, on_trajectory=played.append)
    env.close()
    assert len(played) == 40
    assert all(t.score.success for t in played)
    assert "2 of 2 docs" in pool.status()


def test_engines_without_a_model_of_ours_are_refused(open_pool: OpenPool) -> None:
    with pytest.raises(ConfigError, match="engines are for a model that is sampled here"):
        open_pool(engines=1)
    with pytest.raises(ConfigError, match="an engine takes 4 of 'GPU', which no node has"):
        with_engines(open_pool, engine_resources={"GPU": 4})
