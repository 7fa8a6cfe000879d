"""Promises of sampling with a vLLM engine of its own, on a CPU: tokens and logprobs are those of the trained model."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests.policy.vllm.checks import (
    GREEDY,
    PROMPTS,
    STOPS,
    TOKENIZER,
    UNCLOSED,
    assert_agents_tokens_are_the_models,
    assert_same_model,
    connect,
    gap,
    play,
    processes_of,
    step,
)
from toolrl import ConfigError, PolicyFault, Renderer, RolloutEngine, RolloutRequest, make
from toolrl.policy import VLLMPolicy
from toolrl.support.leftovers import remove_leftovers
from toolrl.tiny import PATH
from toolrl.types import SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300), pytest.mark.filterwarnings(UNCLOSED)]
LONG = SamplingParams(max_tokens=1500)


@pytest.fixture(scope="module")
def policy() -> Iterator[VLLMPolicy]:
    policy = VLLMPolicy(str(PATH), stop_token_ids=STOPS)
    yield policy
    policy.close()


@pytest.fixture
def model(policy: VLLMPolicy) -> PreTrainedModel:
    """The trainer's model, whose weights the engine has."""
    return connect(policy)


def test_tokens_and_logprobs_are_the_models_before_and_after_updates(
    policy: VLLMPolicy, model: PreTrainedModel
) -> None:
    assert_same_model(policy, model)
    version = policy.version
    for update in (1, 2):
        step(model)
        stale = play(policy, PROMPTS, SamplingParams(max_tokens=24))
        assert max(gap(model, ids, sample, 1.0) for ids, sample in zip(PROMPTS, stale, strict=True)) > 0.1
        policy.update_weights()
        assert_same_model(policy, model)
        assert {sample.policy_version for sample in play(policy, PROMPTS, GREEDY)} == {version + update}


def test_agents_play_with_an_engine_behind_the_gateway(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    assert_agents_tokens_are_the_models(policy, model)


def test_tied_weights_and_their_head_change_together(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    assert model.config.tie_word_embeddings
    embedding = model.get_input_embeddings().weight
    embedding.data.copy_(embedding.data.flip(0))
    policy.update_weights()
    assert_same_model(policy, model)


def test_many_submissions_of_all_lengths_come_back_to_their_own_prompts(
    policy: VLLMPolicy, model: PreTrainedModel
) -> None:
    trunk = PROMPTS[2] * 20
    prompts = [trunk[: 1 + 7 * i] for i in range(60)]
    samples = play(policy, prompts, SamplingParams(max_tokens=16))
    assert all(gap(model, ids, sample, 1.0) < 1e-3 for ids, sample in zip(prompts, samples, strict=True))


def test_a_turn_ends_with_a_stop_token_or_is_cut(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    whole = play(policy, PROMPTS, SamplingParams(0.0, max_tokens=100))
    stopped = [(ids, sample) for ids, sample in zip(PROMPTS, whole, strict=True) if sample.finish == "stop"]
    assert stopped
    for ids, sample in stopped:
        assert sample.token_ids[-1] in STOPS
        (cut,) = play(policy, [ids], SamplingParams(0.0, max_tokens=len(sample.token_ids) - 1))
        assert (cut.finish, cut.token_ids) == ("length", sample.token_ids[:-1])


def test_a_conversation_that_fills_the_context_is_cut(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    room = 5
    filling = (PROMPTS[0] * 500)[: policy.max_model_len - room]
    nearly, full, over = play(
        policy, [filling, filling + [7] * room, filling + [7] * 99], SamplingParams(max_tokens=50)
    )
    assert len(nearly.token_ids) <= room
    assert (full.token_ids, full.finish, over.token_ids, over.finish) == ([], "length", [], "length")


def test_the_last_to_leave_cancels_what_is_in_flight(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    with policy.generating():
        futures = [policy.submit(ids, LONG) for ids in PROMPTS]
        futures[0].cancel()
    assert all(future.done() for future in futures)
    policy.update_weights()
    assert_same_model(policy, model)


def test_weights_change_between_turns_and_never_within_one(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    before = copy.deepcopy(model)
    with policy.generating():
        running = [policy.submit(ids, SamplingParams(max_tokens=200)) for ids in PROMPTS]
        while not policy.progress():
            time.sleep(0.001)
        step(model)
        update = threading.Thread(target=policy.update_weights)
        update.start()
        while policy._open.is_set() and update.is_alive():
            time.sleep(0.001)
        waiting = [policy.submit(ids, SamplingParams(max_tokens=24)) for ids in PROMPTS]
        update.join()
        old, new = ([future.result() for future in futures] for futures in (running, waiting))
    assert {sample.policy_version + 1 for sample in old} == {policy.version} == {s.policy_version for s in new}
    assert max(gap(before, ids, sample, 1.0) for ids, sample in zip(PROMPTS, old, strict=True)) < 1e-3
    assert max(gap(model, ids, sample, 1.0) for ids, sample in zip(PROMPTS, new, strict=True)) < 1e-3


def test_submissions_belong_inside_generating(policy: VLLMPolicy) -> None:
    with pytest.raises(ConfigError, match="generating"):
        policy.submit(PROMPTS[0], GREEDY)


def test_episodes_are_played_and_every_sampled_token_has_the_models_logprob(
    policy: VLLMPolicy, model: PreTrainedModel
) -> None:
    env = make("toolrl/PythonMath-v0", size=8)
    renderer = Renderer(TOKENIZER)
    engine = RolloutEngine(policy, renderer, sampling=SamplingParams(0.6, 64), max_completion_tokens=512)
    played = engine.run([RolloutRequest(env, task) for task in env.tasks])
    env.close()
    assert any(trajectory.tool_results for trajectory in played)
    for trajectory in played:
        ids = list(trajectory.prompt_ids)
        for turn in trajectory.turns:
            assert gap(model, ids, turn.sample, 0.6) < 1e-3
            ids += [*turn.sample.token_ids, *turn.observation_ids]


def test_an_engine_that_dies_is_a_fault_and_the_next_rollout_has_the_trainers_weights(
    policy: VLLMPolicy, model: PreTrainedModel
) -> None:
    step(model)
    policy.update_weights()
    with policy.generating():
        futures = [policy.submit(ids, LONG) for ids in PROMPTS]
        for pid in list(processes_of(os.getpid())):
            if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        for future in futures:
            with pytest.raises(PolicyFault, match="vLLM failed"):
                future.result(timeout=60)
    assert_same_model(policy, model)


@pytest.mark.parametrize(
    ("model", "engine", "message"),
    [
        ("/nowhere", {}, "refuses the model '/nowhere'"),
        (str(PATH), {"max_model_len": 9_999_999}, "max_model_len"),
        (str(PATH), {"no_such_argument": 1}, "no_such_argument"),
    ],
)
def test_what_vllm_refuses_is_one_clear_error(model: str, engine: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        VLLMPolicy(model, stop_token_ids=STOPS, engine=engine)
    assert "\n" not in str(caught.value)


SCRIPT = """
import sys, time
from toolrl.policy import VLLMPolicy
if __name__ == "__main__":
    policy = VLLMPolicy(sys.argv[1], stop_token_ids=[1])
    print("ready", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("end", ["by itself", "SIGTERM", "SIGINT", "SIGKILL"])
def test_nothing_is_left_however_the_process_ends(tmp_path: Path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    seconds = "0" if end == "by itself" else "100"
    process = subprocess.Popen(
        [sys.executable, str(script), str(PATH), seconds],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    started = list(processes_of(process.pid))
    if end != "by itself":
        assert len(started) >= 2
        process.send_signal(getattr(signal, end))
    process.wait(90)
    process.stdout.close()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in started):
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_text() for pid in started]
        time.sleep(0.2)
    remove_leftovers("vllm")
    assert not [path for path in Path(tempfile.gettempdir()).glob("toolrl-vllm-*") if f"-{process.pid}-" in path.name]


def test_it_shows_progress_before_the_first_answer(policy: VLLMPolicy, model: PreTrainedModel) -> None:
    seen = set()
    with policy.generating():
        future = policy.submit(PROMPTS[0], SamplingParams(max_tokens=1500))
        while not future.done():
            seen.add(policy.progress())
            time.sleep(0.002)
    assert len(seen) > 3


def test_the_engines_processes_do_not_run_the_callers_script_again(tmp_path: Path) -> None:
    # vLLM's workers also fail on modules that such a script may import.
    script = tmp_path / "script.py"
    script.write_text(
        "import toolrl.training\n"
        "from toolrl.policy import VLLMPolicy\n"
        "from toolrl.types import SamplingParams\n"
        "print('begun')\n"
        f"policy = VLLMPolicy({str(PATH)!r}, stop_token_ids=[])\n"
        "with policy.generating():\n"
        "    print(len(policy.submit([5, 6, 7], SamplingParams(max_tokens=4)).result().token_ids))\n"
        "policy.close()\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=250)
    assert run.stdout.split() == ["begun", "4"], run.stderr[-2000:]
