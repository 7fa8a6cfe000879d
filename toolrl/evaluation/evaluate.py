"""Play tasks and report, per environment."""

from __future__ import annotations

import itertools
import secrets
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from toolrl.chat import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.inputs import Environments, model_policy, opened
from toolrl.evaluation.statistics import mean, pass_all_k, pass_at_k, success_interval
from toolrl.players import renderer_of
from toolrl.policy import ChatPolicy, Policy, ScriptedChatPolicy, ScriptedPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.checking import plain_fact, plain_scalar
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.tools.resources import add_up
from toolrl.trajectory import Trajectory
from toolrl.types import SamplingParams, Task

# Entries of a task's metadata that may give its solution away, and so are not recorded with its episodes.
SOLUTIONS = (
    "answer", "answers", "code", "expected", "gold", "label", "oracle", "program", "proof", "query", "rationale",
    "reference", "script", "secret", "solution", "solutions", "sql", "target", "targets", "test", "tests",
)  # fmt: skip
# Facts of a run, which a task's would be taken for.
_OF_THE_RUN = ("mode", "session", "step", "group", "split", "model", "condition", "dropped")


@dataclass(frozen=True)
class EnvReport:
    """Results in one environment.

    Attributes:
        env_id: The environment.
        tasks: Tasks with at least one scored sample.
        samples: Scored episodes.
        unscored: Episodes that an infrastructure fault left without a score.
        success: Mean over tasks of the share of scored episodes that succeeded.
        success_interval: Its 95 % interval; see `toolrl.evaluation.success_interval`.
        pass_at: k to pass@k, for k = 1, 2, 4 ... up to the samples per task.
        reward: Mean reward.
        calls: Mean number of tool calls.
        calls_by_tool: Mean number of calls per tool.
        call_share_needed: Share of episodes with a call, on tasks that need a tool; None without such tasks.
        call_share_needless: The same on tasks that need no tool.
        success_needless: Success on tasks that need no tool; None without such tasks.
        failures: Failed calls by kind.
        stops: Episodes by stop reason.
        usage: Usage of tools' resources, by name, over all episodes.
        pass_all: k to pass^k, for the same k as `pass_at`.
        faults: Why episodes are unscored, the most frequent reasons first, with their number.
    """

    env_id: str
    tasks: int
    samples: int
    unscored: int
    success: float
    success_interval: tuple[float, float]
    pass_at: dict[int, float]
    reward: float
    calls: float
    calls_by_tool: dict[str, float]
    call_share_needed: float | None
    call_share_needless: float | None
    success_needless: float | None
    failures: dict[str, int]
    stops: dict[str, int]
    usage: dict[str, float] = field(default_factory=dict)
    pass_all: dict[int, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)


class Workers(Protocol):
    """Plays episodes elsewhere, as `toolrl.distributed.RolloutPool` does."""

    def run(
        self, requests: Sequence[RolloutRequest], on_trajectory: Callable[[Trajectory], None] | None = None
    ) -> list[Trajectory]:
        """Play all and return their trajectories in the order of the requests; each is announced as it ends."""
        ...


def evaluate(
    environments: Environments,
    policy: Policy | ChatPolicy | str | None,
    renderer: Renderer | None = None,
    *,
    tasks: int = 100,
    samples: int = 1,
    sampling: SamplingParams | None = None,
    max_completion_tokens: int | None = None,
    concurrency: int = 128,
    policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS,
    on_trajectory: Callable[[Trajectory], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    info: Mapping[str, Any] | None = None,
    workers: Workers | None = None,
    played: Mapping[str, Trajectory] | None = None,
) -> dict[str, EnvReport]:
    """Play the first tasks of each environment: `evaluate(env, "tiny")`.

    Args:
        environments: By name; or one or several, as objects or names. Those that only have a name are made with their
            held-out tasks.
        policy: Plays the tasks; a model by its name, as `--model` has it; None replays each task's oracle.
        renderer: Of the policy's tokenizer. None for a `ChatPolicy`; an oracle without one has no tokens.
        tasks: The most tasks per environment.
        samples: Episodes per task.
        sampling: Temperature and length of a turn; the length does not apply to oracles.
        max_completion_tokens: Limits an episode, in addition to the environment's limits.
        concurrency: Episodes in flight.
        policy_timeout_seconds: See `RolloutEngine`.
        on_trajectory: Called with each trajectory as it finishes.
        on_progress: Called before the first episode and after each, with the number of finished episodes and the total;
            see `toolrl.evaluation.progress`.
        info: Recorded with each trajectory; `mode`, `session` and `step` become part of its id. The session is random
            by default, so that no two evaluations share an id.
        workers: Play the episodes in place of this process, with their own policy, sampling and limits.
        played: Episodes by id that an evaluation with the same session has played before it was ended: they count, and
            are not played again.

    Raises:
        ConfigError: `tasks` or `samples` is not positive.
    """
    if tasks < 1 or samples < 1:
        raise ConfigError(f"evaluation needs at least one task and one sample, got {tasks} and {samples}")
    if isinstance(policy, str) or not isinstance(environments, Mapping):
        with ExitStack() as stack:
            if isinstance(policy, str):
                policy, renderer = stack.enter_context(model_policy(policy))
            return evaluate(
                stack.enter_context(opened(environments)), policy, renderer, tasks=tasks, samples=samples,
                sampling=sampling, max_completion_tokens=max_completion_tokens, concurrency=concurrency,
                policy_timeout_seconds=policy_timeout_seconds, on_trajectory=on_trajectory, on_progress=on_progress,
                info=info, workers=workers, played=played,
            )  # fmt: skip
    about = dict(info or {})
    named = {"mode": "eval", "session": secrets.token_hex(8), **about}
    prefix = "/".join(str(named[name]) for name in ("mode", "session", "step") if name in named)
    requests = []
    for env_id, env in environments.items():
        for task in env.tasks.take(tasks):
            oracle = oracle_policy(env, task, renderer) if policy is None and workers is None else None
            for sample in range(samples):
                id, group = f"{prefix}/{env_id}/{task.id}/{sample}", f"{env_id}/{task.id}"
                requests.append(RolloutRequest(env, task, env_id, id, oracle, {**task_info(task), **about}, group))
    earlier = [played[request.id] for request in requests if request.id in played] if played else []
    total = len(requests)
    requests = [request for request in requests if not played or request.id not in played]
    finished = itertools.count(len(earlier) + 1)

    def announce(trajectory: Trajectory) -> None:
        if on_trajectory is not None:
            on_trajectory(trajectory)
        if on_progress is not None:
            on_progress(next(finished), total)

    if policy is None:  # an oracle's turns are bounded by the environment alone
        sampling = replace(sampling or SamplingParams(), max_tokens=sys.maxsize)
    engine = RolloutEngine(
        policy or ScriptedChatPolicy([]),  # unused: each request has its own oracle
        renderer,
        sampling=sampling,
        max_completion_tokens=max_completion_tokens,
        concurrency=concurrency,
        policy_timeout_seconds=policy_timeout_seconds,
        on_trajectory=announce,
    )
    if on_progress is not None:
        on_progress(len(earlier), total)
    by_env = defaultdict(list)
    for trajectory in (*earlier, *(engine.run(requests) if workers is None else workers.run(requests, announce))):
        by_env[trajectory.env_id].append(trajectory)
    return {env_id: summarise(env_id, by_env[env_id]) for env_id in environments}


def oracle_policy(env: ToolEnv, task: Task, renderer: Renderer | None) -> Policy | ChatPolicy:
    """A policy that says what the environment's oracle says."""
    messages = env.oracle(task)
    if renderer is None:
        return ScriptedChatPolicy(messages)
    own = renderer_of(renderer, env, task)
    return ScriptedPolicy([own.assistant_ids(message, env.toolbox.schemas) for message in messages])


def task_info(task: Task) -> dict[str, Any]:
    """The facts about a task that are recorded with its trajectories.

    These are its kind, its difficulty and whether it needs a tool, and those entries of its metadata that are short
    plain values: names of `SOLUTIONS` and with an underscore in front, and whatever equals the answer, are left out.
    """
    typed = {"kind": task.kind or None, "needs_tool": task.needs_tool, "difficulty": task.difficulty}
    left_out = {*SOLUTIONS, *_OF_THE_RUN, *typed}
    others = {
        name: value
        for name, value in task.metadata.items()
        if not name.startswith("_") and name.casefold() not in left_out
    }
    answer = str(plain_scalar(task.answer)).casefold()
    facts: dict[str, Any] = {}
    for name, value in (*typed.items(), *others.items()):
        fact = plain_fact(value)
        if fact is not None and (name in typed or str(fact).casefold() != answer):
            facts[name] = fact
    return facts


def summarise(env_id: str, trajectories: Sequence[Trajectory]) -> EnvReport:
    """Report on the trajectories of one environment."""
    scored = [t for t in trajectories if t.score.value is not None]
    by_task: dict[str, list[float]] = defaultdict(list)
    for trajectory in scored:
        by_task[trajectory.task_id].append(float(bool(trajectory.score.success)))
    sizes = [len(group) for group in by_task.values()]
    fewest = min(sizes, default=0)
    ks = [2**i for i in range(fewest.bit_length()) if 2**i <= fewest]
    tools = Counter(result.call.name or "(malformed)" for t in scored for result in t.tool_results)
    needless = [t for t in scored if t.info.get("needs_tool") is False]
    needed = [t for t in scored if t.info.get("needs_tool") is True]
    return EnvReport(
        env_id=env_id,
        tasks=len(by_task),
        samples=len(scored),
        unscored=len(trajectories) - len(scored),
        success=mean(sum(group) / len(group) for group in by_task.values()) or 0.0,
        success_interval=success_interval(list(by_task.values())),
        pass_at={k: mean(pass_at_k(len(group), int(sum(group)), k) for group in by_task.values()) or 0.0 for k in ks},
        reward=mean(t.score.value or 0.0 for t in scored) or 0.0,
        calls=mean(len(t.tool_results) for t in scored) or 0.0,
        calls_by_tool={name: count / len(scored) for name, count in sorted(tools.items())},
        call_share_needed=mean(bool(t.tool_results) for t in needed),
        call_share_needless=mean(bool(t.tool_results) for t in needless),
        success_needless=mean(bool(t.score.success) for t in needless),
        failures=dict(Counter(str(r.failure) for t in scored for r in t.tool_results if r.failure)),
        stops=dict(Counter(str(t.stop) for t in trajectories)),
        usage=add_up(t.usage for t in trajectories),
        pass_all={k: mean(pass_all_k(len(group), int(sum(group)), k) for group in by_task.values()) or 0.0 for k in ks},
        faults=dict(Counter(_why(t) for t in trajectories if t.score.value is None).most_common(3)),
    )


def _why(trajectory: Trajectory) -> str:
    return (trajectory.error or trajectory.score.reason)[:500]
