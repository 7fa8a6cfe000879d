"""Promises about failures: faults are retried, bugs are raised, and everything that was opened is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from toolrl import Renderer, RolloutEngine, RolloutRequest, StopReason, call, per_episode, say, tool
from toolrl.errors import InfrastructureError, PolicyFault

PATIENCE = 20.0  # seconds that tools wait for each other; reached only if the promise is broken


class Doors:
    """Counts doors that are opened and closed."""

    def __init__(self) -> None:
        self.opened = self.closed = 0

    def open(self) -> Doors:
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def doors() -> Doors:
    return Doors()


@pytest.fixture
def make_knock(doors: Doors) -> Callable[..., Any]:
    """A tool that holds a door open while it acts."""

    def make(action: Callable[[str], None]) -> Any:
        @tool
        def knock(key: str, door: Any = per_episode(doors.open)) -> str:
            """Open a door.

            Args:
                key: Handed on.
            """
            action(key)
            return "in"

        return knock

    return make


@pytest.mark.parametrize("kind", [PolicyFault, InfrastructureError])
@pytest.mark.parametrize(("faults", "attempts"), [(0, 1), (1, 2), (2, 3), (99, 3)])
def test_an_infrastructure_fault_is_retried_within_bounds_and_then_left_unscored(
    make_player: Any, make_env: Any, play: Any, make_knock: Any, doors: Doors, kind: type, faults: int, attempts: int
) -> None:
    left = [faults]

    def fault() -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise kind("gone")

    in_policy = kind is PolicyFault
    policy = make_player(
        call("knock", key="a"), say("4"), instead=lambda turn: fault() if in_policy and turn % 2 == 0 else None
    )
    knock = make_knock(lambda _: None if in_policy else fault())
    (trajectory,) = play(policy, make_env(knock), retries=2)
    assert trajectory.attempts == doors.opened == doors.closed == attempts
    if faults < 3:
        assert (trajectory.score.value, trajectory.stop, trajectory.error) == (1.0, StopReason.ANSWER, "")
    else:
        assert (trajectory.score.value, trajectory.score.success) == (None, None)
        assert (trajectory.stop, trajectory.error) == (StopReason.FAULT, f"{kind.__name__}: gone")


def test_retries_wait_longer_each_time(
    make_player: Any, make_env: Any, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    def fault(_: int) -> None:
        raise PolicyFault("gone")

    monkeypatch.setattr("asyncio.sleep", sleep)
    play(make_player(instead=fault), make_env(), retries=3, backoff_seconds=8)
    assert len(waits) == 3
    assert all(0.5 <= wait / (8 * 2**attempt) <= 1.5 for attempt, wait in enumerate(waits))


def test_a_fault_ends_only_its_own_episode(make_player: Any, make_env: Any, play: Any, make_knock: Any) -> None:
    calls: list[str] = []

    def fault_once(key: str) -> None:
        calls.append(key)
        if len(calls) == 1:
            raise InfrastructureError("gone")

    policy = make_player(call("knock", key="a"), say("4"))
    trajectories = play(policy, make_env(make_knock(fault_once)), 4, retries=0)
    assert sorted(trajectory.score.value is None for trajectory in trajectories) == [False, False, False, True]


def test_a_bug_in_a_tool_is_raised_as_itself_and_everything_is_closed(
    renderer: Renderer, make_player: Any, make_env: Any, make_knock: Any, doors: Doors
) -> None:
    everyone = threading.Barrier(4, timeout=PATIENCE)

    class Bug(Exception):
        pass

    def action(key: str) -> None:
        everyone.wait()
        if key == "2":
            raise Bug("here") from KeyError("there")
        threading.Event().wait(0.2)

    env = make_env(make_knock(action))
    policies = [make_player(call("knock", key=str(index)), say("4")) for index in range(4)]
    requests = [RolloutRequest(env, env.tasks[0], policy=policy) for policy in policies]
    with pytest.raises(Bug, match="here") as raised:
        RolloutEngine(make_player(), renderer).run(requests)
    assert isinstance(raised.value.__cause__, KeyError)
    assert (doors.opened, doors.closed) == (4, 4)
    assert all(policy.contexts == ["entered", "broken"] for policy in policies)


def test_ctrl_c_closes_what_the_episodes_opened(
    make_player: Any, make_env: Any, play: Any, make_knock: Any, doors: Doors
) -> None:
    everyone = threading.Barrier(3, timeout=PATIENCE)

    def action(_: str) -> None:
        if everyone.wait() == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        threading.Event().wait(0.2)

    policy = make_player(call("knock", key="a"), call("knock", key="b"))
    with pytest.raises(KeyboardInterrupt):
        play(policy, make_env(make_knock(action), turns=100), 3)
    assert (doors.opened, doors.closed) == (3, 3)
    assert policy.contexts == ["entered", "broken"]


class Meter:
    """Reports its usage once it is closed."""

    def __init__(self) -> None:
        self.usage: dict[str, float] = {}

    def close(self) -> None:
        self.usage = {"meters": 1.0, "dollars": 0.5}


def test_what_resources_used_is_recorded_for_all_attempts_together(make_player: Any, make_env: Any, play: Any) -> None:
    left = [1]

    @tool
    def measure(first: Meter = per_episode(Meter), second: Meter = per_episode(lambda: Meter())) -> str:
        """Measure."""
        left[0] -= 1
        if left[0] >= 0:
            raise InfrastructureError("gone")
        return "done"

    [trajectory] = play(make_player(call("measure"), say("4")), make_env(measure))
    assert (trajectory.attempts, trajectory.score.value) == (2, 1.0)
    assert trajectory.usage == {"meters": 4.0, "dollars": 2.0}
    [without] = play(make_player(say("4")), make_env(measure))
    assert without.usage == {}
