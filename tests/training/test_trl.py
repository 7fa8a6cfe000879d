"""Promises about the seam with TRL, against the real GRPOTrainer."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

import toolrl.training
from toolrl import (
    ConfigError,
    Ended,
    InfrastructureError,
    Score,
    StopReason,
    Task,
    ToolEnv,
    make,
    read_trajectories,
    say,
)
from toolrl.policy import ScriptedChatPolicy, ScriptedPolicy
from toolrl.policy.models import load_tokenizer
from toolrl.training import GRPORun
from toolrl.training.layout import prompts_needed
from toolrl.training.trainer import ROWS_TOGETHER
from toolrl.users import ScriptedUser

DOCS = "toolrl/DocsSearch-v0"


def play(run: GRPORun) -> dict[str, Any]:
    """One generation batch as TRL prepares it."""
    trainer = run.trainer
    trainer.model.train()
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def token_gradients(run: GRPORun, batch: dict[str, Any]) -> torch.Tensor:
    """Absolute gradient of the loss with respect to the log-probability of each completion token (N, C)."""
    kept: list[torch.Tensor] = []
    compute = run.trainer._get_per_token_logps_and_entropies

    def keep(*arguments: Any, **options: Any) -> Any:
        outputs = compute(*arguments, **options)
        outputs[0].retain_grad()
        kept.append(outputs[0])
        return outputs

    run.trainer.current_gradient_accumulation_steps = 1  # set by the training loop, which is not running here
    run.trainer._get_per_token_logps_and_entropies = keep
    try:
        run.trainer.compute_loss(run.trainer.model, copy.copy(batch)).backward()
    finally:
        run.trainer._get_per_token_logps_and_entropies = compute
    return torch.cat([logps.grad.abs() for logps in kept if logps.grad is not None])


class Lottery:
    """An arbitrary reward that gives every group variance; some episodes are unscored."""

    def __init__(self, unscored: tuple[int, ...] = ()):
        self.calls, self.unscored = 0, unscored

    def __call__(self, task: Task, episode: Any) -> Score:
        self.calls += 1
        if self.calls - 1 in self.unscored:
            raise InfrastructureError("the grader is down")
        return Score(float(self.calls % 3))


def lottery_env(lottery: Callable[[Task, Any], Any]) -> ToolEnv:
    docs = make(DOCS, size=20)
    return ToolEnv(
        tasks=docs.tasks, tools=docs.toolbox.tools.values(), reward=lottery, system_prompt=docs.system_prompt
    )


def test_only_trl_trainer_and_sft_use_more_of_trl_than_its_settings() -> None:
    settings = {"GRPOConfig", "SFTConfig", "ModelConfig", "TrlParser", "get_peft_config"}
    used: dict[str, set[str]] = {}
    for path in Path(toolrl.training.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trl":
                used.setdefault(path.stem, set()).update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                used.setdefault(path.stem, set()).update(a.name for a in node.names if a.name.split(".")[0] == "trl")
    allowed = {f"trl.{name}" for name in settings}
    assert {name for name, names in used.items() if names - allowed} == {"trl", "trainer", "sft"}


def test_gradient_flows_through_sampled_tokens_only(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: lottery_env(Lottery())})
    batch = play(run)
    gradients = token_gradients(run, batch)
    sampled = (batch["tool_mask"] * batch["completion_mask"]).bool()
    observed = ~batch["tool_mask"].bool() & batch["completion_mask"].bool()
    assert observed.any(), "no episode called a tool, so the test shows nothing"
    assert gradients[observed].max() == 0
    assert gradients[sampled & (batch["advantages"] != 0)[:, None]].min() > 0


def test_scoring_only_sampled_tokens_gives_trls_loss_and_gradient(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: lottery_env(Lottery())}, {"per_device_train_batch_size": 24, "beta": 0.0})
    batch, trainer = play(run), run.trainer
    trainer.current_gradient_accumulation_steps = 1

    def loss_and_gradient() -> tuple[float, torch.Tensor]:
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, copy.copy(batch))
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in trainer.model.parameters()])

    ours = loss_and_gradient()
    assert len(batch["completion_ids"]) > ROWS_TOGETHER, "more than one chunk of rows"
    trainer._get_per_token_logps_and_entropies = partial(GRPOTrainer._get_per_token_logps_and_entropies, trainer)
    theirs = loss_and_gradient()
    assert ours[0] == pytest.approx(theirs[0], abs=1e-6)
    assert (ours[1] - theirs[1]).norm() < 1e-4 * theirs[1].norm()


def test_unscored_trajectory_contributes_nothing(grpo_run: Callable[..., GRPORun]) -> None:
    lottery = Lottery(unscored=(1, 6))
    run = grpo_run({DOCS: lottery_env(lottery)}, retries=0)
    batch = play(run)
    unscored = torch.tensor([t.score.value is None for t in run.last_batch])
    assert unscored.sum() == 2
    gradients = token_gradients(run, batch)
    assert gradients[unscored].max() == 0
    # Its group's baseline is the mean of the others.
    group = run.last_batch[:4]
    rewards = [t.score.value for t in group if t.score.value is not None]
    expected = [0.0 if t.score.value is None else t.score.value - sum(rewards) / len(rewards) for t in group]
    assert torch.sign(batch["advantages"][:4]).tolist() == torch.sign(torch.tensor(expected)).tolist()


def test_trainer_sees_exactly_the_tokens_of_the_trajectories(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: make(DOCS, size=20)})
    batch = play(run)
    for row, trajectory in enumerate(run.last_batch):
        length = len(trajectory.completion_ids)
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        assert prompt.tolist() == trajectory.prompt_ids
        assert batch["completion_ids"][row][:length].tolist() == trajectory.completion_ids
        assert batch["tool_mask"][row][:length].tolist() == trajectory.mask
        assert batch["completion_mask"][row].sum() == length
        assert batch["sampling_per_token_logps"][row][:length].tolist() == pytest.approx(trajectory.logprobs)


def test_sampled_logprobs_are_those_of_the_model_that_sampled(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run({DOCS: make(DOCS, size=20)}, {"max_steps": 3})
    run.trainer.train()
    run.policy.weights_changed()  # the last step's update
    batch = play(run)
    assert run.policy.version >= 3
    model = run.trainer.model.eval()
    for trajectory in run.last_batch:
        ids = torch.tensor([trajectory.prompt_ids + trajectory.completion_ids])
        with torch.no_grad():
            logprobs = model(ids).logits.float().log_softmax(-1)[0]
        start = len(trajectory.prompt_ids)
        for offset, (token, bit, logprob) in enumerate(
            zip(trajectory.completion_ids, trajectory.mask, trajectory.logprobs, strict=True)
        ):
            if bit:
                assert logprobs[start + offset - 1, token].item() == pytest.approx(logprob, abs=2e-3)
    assert batch["completion_ids"].shape[0] == len(run.last_batch)


def test_episodes_without_a_token_are_passed_on_unscored(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run(retries=0)

    def broken(*arguments: Any) -> Any:
        raise InfrastructureError("the generator is down")

    run.policy.submit = broken  # type: ignore[method-assign]
    batch = play(run)
    assert all(t.score.value is None and not t.completion_ids for t in run.last_batch)
    assert batch["advantages"].abs().max() == 0
    assert (batch["completion_mask"] * batch["tool_mask"]).sum() == 0


def test_training_logs_each_environment(grpo_run: Callable[..., GRPORun], tmp_path: Path) -> None:
    environments = {name: make(name, size=30) for name in ("toolrl/PythonMath-v0", DOCS)}
    run = grpo_run(environments, {"max_steps": 3, "per_device_train_batch_size": 16}, weights={DOCS: 2.0})
    run.trainer.train()
    names = {name for row in run.trainer.state.log_history for name in row}
    for env in ("PythonMath", "DocsSearch"):
        for metric in (
            "success", "reward", "call_share", "unscored_share", "truncated_share", "zero_variance_group_share",
            "part_correct", "generation_seconds_p50", "generation_seconds_p95",
        ):  # fmt: skip
            assert f"{env}/{metric}" in names
    written = list(read_trajectories(tmp_path / "trajectories.jsonl"))
    assert len(written) == 48
    assert len({t.id for t in written}) == 48


def test_the_data_set_is_long_enough_for_all_steps(config: Callable[..., Any]) -> None:
    assert prompts_needed(config(max_steps=10), 0) == 20
    assert prompts_needed(config(max_steps=10, gradient_accumulation_steps=2), 0) == 40
    assert prompts_needed(config(max_steps=10), 7) == 7


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 5}, {"eval_strategy": "steps", "eval_steps": 1}])
def test_settings_that_would_train_wrongly_are_refused(
    grpo_run: Callable[..., GRPORun], changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        grpo_run(changes=changes)


def test_lora_trains_the_adapter_and_generates_with_it(grpo_run: Callable[..., GRPORun]) -> None:
    peft = pytest.importorskip("peft", reason="the lora extra is not installed")
    run = grpo_run(
        {DOCS: lottery_env(Lottery())},
        {"max_steps": 2, "learning_rate": 0.05},
        peft_config=peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    before = {name: p.detach().clone() for name, p in run.trainer.model.named_parameters()}
    run.trainer.train()
    changed = [n for n, p in run.trainer.model.named_parameters() if not torch.equal(p, before[n])]
    assert changed
    assert all("lora_" in name for name in changed)
    run.policy.weights_changed()
    play(run)
    trajectory = run.last_batch[0]
    ids = torch.tensor([trajectory.prompt_ids + trajectory.completion_ids])
    with torch.no_grad():
        logprobs = run.trainer.model.eval()(ids).logits.float().log_softmax(-1)[0]
    first = len(trajectory.prompt_ids)
    assert logprobs[first - 1, trajectory.completion_ids[0]].item() == pytest.approx(trajectory.logprobs[0], abs=2e-3)


def test_episodes_of_a_chat_policy_are_never_trained_on(grpo_run: Callable[..., GRPORun]) -> None:
    run = grpo_run()
    run.engine.policy = ScriptedChatPolicy([say("<answer>4</answer>")])
    with pytest.raises(ConfigError, match="has no tokens to train on"):
        play(run)


def test_an_answer_that_ends_on_another_token_than_eos_does_not_count_as_truncated(
    grpo_run: Callable[..., GRPORun],
) -> None:
    tokenizer = load_tokenizer("tiny")
    tokenizer.eos_token = "</tool_response>"
    run = grpo_run(tokenizer=tokenizer, dialect="kimi-k2")  # here <|im_end|> ends a turn too
    answer = run.renderer.assistant_ids(say("<answer>4</answer>"))
    assert tokenizer.eos_token_id not in answer
    run.engine.policy = ScriptedPolicy([answer])
    batch = play(run)
    length = len(answer) + 1
    for ids, sampled, counted in zip(
        batch["completion_ids"], batch["tool_mask"], batch["completion_mask"], strict=True
    ):
        assert ids[:length].tolist() == [*answer, tokenizer.eos_token_id]
        assert sampled[:length].tolist() == [1] * len(answer) + [0]
        assert counted[:length].tolist() == [1] * length
    assert run.trainer._metrics["train"]["completions/clipped_ratio"] == [0.0]
    assert all(trajectory.completion_ids == answer for trajectory in run.last_batch)


def test_what_a_user_says_is_not_trained_on(grpo_run: Callable[..., GRPORun]) -> None:
    env = ToolEnv(
        tasks=[Task(name, f"Guess the {name}.") for name in "abcdef"],
        user=ScriptedUser(["colder", "warmer", Ended("Yes.", "guessed")]),
        reward=lambda task, episode: float(episode.ending == "guessed"),
    )
    run = grpo_run({"tests/Guess": env})
    script = [run.renderer.assistant_ids(say(word)) for word in ("warmer", "colder", "warmer")]
    run.engine.policy = ScriptedPolicy(script)
    batch = play(run)
    sampled = (batch["tool_mask"] * batch["completion_mask"]).bool()
    for ids, mask in zip(batch["completion_ids"], sampled, strict=True):
        assert ids[mask].tolist() == [token for turn in script for token in turn]
    assert {trajectory.stop for trajectory in run.last_batch} == {StopReason.USER}
    assert run.trainer._metrics["train"]["completions/clipped_ratio"][-1] == 0
