"""`audit_environment`: how much reward does each exploit get without solving the task?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolrl.audit.case import Case, is_right, make_case
from toolrl.audit.exploits import catalogue
from toolrl.audit.exploits.base import Exploit
from toolrl.audit.play import EpisodeCounter, Played, play_all, play_on_tokens
from toolrl.audit.report import Attempt, AuditReport, Outcome, OutcomeStatus
from toolrl.audit.subject import Environment, Subject, options_of, sample_tasks
from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.statistics import wilson_interval
from toolrl.types import Score, Task

_LUCK = 0.5  # a fixed answer that is right on more than this share of tasks is not luck


def audit_environment(
    environment: Environment,
    *,
    tasks: int = 8,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    exploits: Iterable[Exploit] | None = None,
    slow: bool = True,
    renderer: Renderer | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> AuditReport:
    """Play every exploit on some tasks; `report.assert_passed()` raises if one is paid.

    Exploits are played as messages. With a renderer, all but the slow ones and those that take two episodes are played
    token by token as well, by the player that training uses, to find what pays only there.

    Args:
        environment: An id, a class or function that makes one, or an instance, which stays open.
        tasks: How many tasks each exploit is played on.
        seed: Selects the tasks.
        settings: For making the environment.
        exploits: Instead of the whole catalogue (`catalogue()`), which includes registered ones.
        slow: Whether to play exploits that wait for a time limit, on one task each.
        renderer: The renderer of the model whose tokens are played.
        on_progress: Called with the number of episodes done and planned; see `toolrl.evaluation.progress`.

    Raises:
        EnvironmentNotFound: No environment has this id.
        ConfigError: The environment does not take these settings, or two exploits have the same name.
    """
    subject, counter = Subject(environment, settings), EpisodeCounter(on_progress)
    chosen = catalogue() if exploits is None else tuple(exploits)
    with subject.open() as env:
        options = options_of(env)
        sampled = sample_tasks(env, tasks, seed)
        cases = [(task, make_case(env, task)) for task in sampled]
        plan: list[tuple[Exploit, Task, Case]] = []
        outcomes: dict[str, Outcome] = {}
        for exploit in chosen:
            if exploit.name in outcomes:
                raise ConfigError(f"two exploits are named {exploit.name!r}; rename one")
            fitting = [(exploit, task, case) for task, case in cases if exploit.needs(case)]
            excuse = options.excused.get(exploit.name, "")
            note = excuse or ("" if fitting else f"the environment lacks {exploit.wants or 'what it needs'}")
            if exploit.is_slow and not slow:
                note = note or "slow exploits were skipped"
            outcomes[exploit.name] = Outcome(exploit, "excused" if excuse else "not applicable", note=note)
            if not note:
                plan += fitting[:1] if exploit.is_slow else fitting
        # Exploits of two episodes come last, one at a time: others in between could touch what the first episode left.
        plan.sort(key=lambda entry: entry[0].before is not None)
        alone = sum(exploit.before is not None for exploit, _, _ in plan)
        scripts = [(task, exploit.play(case)) for exploit, task, case in plan[: len(plan) - alone]]
        played = play_all(env, scripts, counter=counter)
        for exploit, task, case in plan[len(plan) - alone :]:
            assert exploit.before is not None
            scripts = [(task, exploit.before(case)), (task, exploit.play(case))]
            played.append(play_all(env, scripts, concurrency=1, counter=counter)[-1])
        honest = _play_compared(env, plan, counter)
        attempts: dict[str, list[Attempt]] = {}
        for (exploit, task, case), episode in zip(plan, played, strict=True):
            beyond = _beyond(episode, honest.get((exploit.name, task.id), 0.0))
            attempts.setdefault(exploit.name, []).append(_judge(exploit, task, case, beyond))
        if renderer is not None:
            pairs = zip(plan, played, strict=True)
            quick = [pair for pair in pairs if not (pair[0][0].is_slow or pair[0][0].before)]
            again = play_on_tokens(env, [(task, episode.script) for (_, task, _), episode in quick], renderer, counter)
            for ((exploit, task, case), _), episodes in zip(quick, again, strict=True):
                earned = honest.get((exploit.name, task.id), 0.0)
                judged = [_judge(exploit, task, case, _beyond(episode, earned)) for episode in episodes]
                attempts[exploit.name] += [replace(attempt, on_tokens=True) for attempt in judged]
    for name, made in attempts.items():
        outcomes[name] = _outcome(outcomes[name].exploit, made, options.chance)
    return AuditReport(subject.name, len(sampled), options.chance, tuple(outcomes.values()))


def _play_compared(
    env: ToolEnv, plan: Sequence[tuple[Exploit, Task, Case]], counter: EpisodeCounter
) -> dict[tuple[str, str], float]:
    """What the honest episodes earn that exploits are compared with, by exploit and task."""
    compared = [(exploit.name, task, exploit.compared(case)) for exploit, task, case in plan if exploit.compared]
    played = play_all(env, [(task, script) for _, task, script in compared], counter=counter)
    return {(name, task.id): one.reward for (name, task, _), one in zip(compared, played, strict=True)}


def _beyond(played: Played, honest: float) -> Played:
    """An episode, with the reward that it earned beyond an honest one."""
    if not honest or played.score.value is None:
        return played
    return replace(played, score=Score(max(0.0, played.score.value - honest), played.score.parts))


def _judge(exploit: Exploit, task: Task, case: Case, played: Played) -> Attempt:
    lucky = exploit.guess and played.reward > 0 and is_right(case.form.read(played.final or ""), task)
    return Attempt(played, lucky, exploit.opened(case))


def _outcome(exploit: Exploit, attempts: Sequence[Attempt], chance: float) -> Outcome:
    lucky = sum(attempt.is_lucky for attempt in attempts)
    least_share = wilson_interval(lucky, len(attempts))[0]
    leaked = sum(attempt.played.reward for attempt in attempts if not attempt.is_lucky) / len(attempts)
    status: OutcomeStatus
    if any(attempt.opened for attempt in attempts) or leaked > max(chance, exploit.partial):
        status = "leak"
    elif least_share > max(chance, _LUCK):
        return Outcome(
            exploit, "leak", tuple(attempts), note=f"this answer is right in {lucky} of {len(attempts)} episodes"
        )
    elif any(attempt.played.crash for attempt in attempts):
        status = "crash"
    else:
        status = "held"
    return Outcome(exploit, status, tuple(attempts))
