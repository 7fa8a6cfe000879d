"""Promises about toolkits: a class's methods are tools over one state, and nothing becomes a tool by accident."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from toolrl import (
    RolloutEngine,
    RolloutRequest,
    Task,
    ToolEnv,
    ToolError,
    call,
    per_episode,
    per_run,
    say,
    tool,
    toolkit,
)
from toolrl.evaluation.regrade import regrade
from toolrl.policy import ScriptedChatPolicy

Episodes = list[dict[str, Any]]


class Calendar:
    """Five tools, and everything else that a class may have."""

    made: list[Calendar] = []  # noqa: RUF012 - shared on purpose
    default_hour = 9

    def __init__(self) -> None:
        self.events: dict[str, int] = {}
        self.closed = False
        Calendar.made.append(self)

    def add(self, event: str, hour: int = 12) -> str:
        """Add an event.

        Args:
            event: Its title.
            hour: When it starts.
        """
        if event in self.events:
            raise ToolError(f"{event!r} exists already")
        self.events[event] = hour
        return "added"

    async def move(self, event: str, hours: Annotated[int, Field(description="How much later.", ge=1)]) -> int:
        """Move an event.

        Args:
            event: Its title.
        """
        await asyncio.sleep(0)
        self.events[event] += hours
        return self.events[event]

    def agenda(self):
        """List all events."""
        return self.events

    @staticmethod
    def clock(hour: int) -> str:
        """Write an hour as a clock does.

        Args:
            hour: From 0 to 23.
        """
        return f"{hour:02}:00"

    def stamp(self, event: str, stamps: list = per_run(list)) -> int:
        """Stamp an event.

        Args:
            event: Its title.
        """
        stamps.append((event, self.events[event]))
        return len(stamps)

    def snapshot(self):
        return dict(self.events)

    def reset(self, hour: int) -> None:
        """Start over.

        Args:
            hour: When.
        """

    def get_reward(self) -> float:
        """How good the day is."""
        return 1.0

    def close(self) -> None:
        """Close the calendar."""
        self.closed = True

    @property
    def usage(self) -> dict[str, float]:
        """What it cost."""
        return {"events": len(self.events)}

    @classmethod
    def holidays(cls, year: int) -> Calendar:
        """Another calendar.

        Args:
            year: Which.
        """
        return cls()

    def _check(self, hour: int) -> bool:
        """Whether an hour is on the clock.

        Args:
            hour: The hour.
        """
        return 0 <= hour < 24


TOOLS = ["add", "move", "agenda", "clock", "stamp"]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    Calendar.made.clear()


def environment(*tools: Any, episodes: Episodes | None = None) -> ToolEnv:
    """An environment that keeps the state of each episode."""

    def reward(task: Task, episode: Any) -> float:
        if episodes is not None:
            episodes.append(dict(episode.state))
        return 1.0

    return ToolEnv(tasks=[Task("a", "Plan.", metadata={"hour": 7}), Task("b", "Plan.")], tools=tools, reward=reward)


def play(env: ToolEnv, *messages: Any, task: int = 0) -> list[str]:
    """What an episode of these messages answers."""
    env.reset(options={"task": task})
    return [env.step(env.dialect.format(message))[0] for message in messages]


def test_documented_and_typed_public_methods_are_tools_and_nothing_else_is() -> None:
    assert list(environment(Calendar).toolbox.tools) == TOOLS
    assert [entry.name for entry in toolkit(Calendar)] == TOOLS


def test_a_method_has_the_schema_and_the_validation_of_a_function() -> None:
    def add(event: str, hour: int = 12) -> str:
        """Add an event.

        Args:
            event: Its title.
            hour: When it starts.
        """
        return ""

    assert toolkit(Calendar)[0].schema == tool(add).schema
    assert play(environment(Calendar), call("move", event="x", hours=0)) == [
        "error: invalid arguments for move: hours: Input should be greater than or equal to 1"
    ]


def test_each_episode_has_one_instance_that_all_its_tools_share() -> None:
    episodes: Episodes = []
    env = environment(Calendar, episodes=episodes)
    messages = [call("add", event="lunch"), call("move", event="lunch", hours=2), call("agenda"), say("done")]
    assert play(env, *messages) == play(env, *messages) == ["added", "14", '{"lunch": 14}', ""]
    first, second = (episode["calendar"] for episode in episodes)
    assert first is not second
    assert first.snapshot() == second.snapshot() == {"lunch": 14}
    env.close()


def test_the_instance_is_made_by_the_first_call_and_closed_after_the_reward() -> None:
    seen: list[bool] = []
    env = ToolEnv(
        tasks=[Task("a", "p")],
        tools=[Calendar],
        reward=lambda task, episode: seen.append("calendar" in episode.state and episode.state["calendar"].closed) or 1,
    )
    env.reset()
    assert Calendar.made == []
    env.step(env.dialect.format(call("clock", hour=3)))
    assert [calendar.closed for calendar in Calendar.made] == [False]
    env.step("done")
    assert seen == [False]
    assert [calendar.closed for calendar in Calendar.made] == [True]
    env.reset()
    env.step("done")
    assert len(Calendar.made) == 1


def test_a_mistake_is_an_observation_and_a_bug_raises() -> None:
    env = environment(Calendar)
    messages = [call("add", event="lunch"), call("add", event="lunch")]
    assert play(env, *messages)[1] == "error: 'lunch' exists already"
    with pytest.raises(KeyError, match="tea") as caught:
        play(env, call("move", event="tea", hours=1))
    assert any("'move'" in note for note in caught.value.__notes__)


def test_a_method_may_have_injected_parameters() -> None:
    env = environment(Calendar)
    stamped = [call("add", event="lunch"), call("stamp", event="lunch")]
    assert [play(env, *stamped)[1], play(env, *stamped)[1]] == ["1", "2"]
    assert set(env.toolbox.schemas[4]["function"]["parameters"]["properties"]) == {"event"}


class ByTask:
    def __init__(self, task: Task):
        self.hour = task.metadata.get("hour")

    def show(self):
        """Show the hour."""
        return self.hour


def test_the_instance_is_made_with_the_task_if_it_takes_one() -> None:
    env = environment(ByTask)
    assert [play(env, call("show"), task=0), play(env, call("show"), task=1)] == [["7"], ["null"]]


class Managed:
    entered: list[str] = []  # noqa: RUF012 - shared on purpose

    def __enter__(self):
        self.entered.append("enter")
        return self

    def __exit__(self, *exception: object) -> None:
        self.entered.append("exit")

    def show(self):
        """Show what happened."""
        return self.entered


def test_the_instance_may_be_a_context_manager() -> None:
    assert play(environment(Managed), call("show"), say("done"))[0] == '["enter"]'
    assert Managed.entered == ["enter", "exit"]


def test_options_choose_the_methods_the_name_and_how_the_instance_is_made() -> None:
    class Shelf:
        def __init__(self, *books: str):
            self.books = books

        def list_books(self):
            """List the books."""
            return self.books

        def count(self):
            """Count the books."""
            return len(self.books)

    episodes: Episodes = []
    tools = toolkit(
        Shelf,
        only=["count"],
        name="library",
        instance=lambda task: Shelf(task.id, task.prompt),
        timeout_seconds=5,
        max_output_characters=50,
    )
    assert [(entry.name, entry.timeout_seconds, entry.max_output_characters) for entry in tools] == [("count", 5, 50)]
    assert play(environment(tools, episodes=episodes), call("count"), say("done"))[0] == "2"
    assert episodes[0]["library"].books == ("a", "Plan.")


def test_an_instance_can_be_shared_with_functions_and_by_all_episodes() -> None:
    diary = per_episode(Calendar)

    @tool
    def erase(calendar: Calendar = diary) -> str:
        """Erase everything."""
        calendar.events.clear()
        return "erased"

    env = environment(toolkit(Calendar, instance=diary), erase)
    assert play(env, call("add", event="x"), call("erase"), call("agenda")) == ["added", "erased", "{}"]

    env = environment(toolkit(Calendar, instance=per_run(Calendar)))
    play(env, call("add", event="x"), say("done"))
    assert play(env, call("agenda")) == ['{"x": 12}']
    shared = Calendar.made[-1]
    assert not shared.closed
    env.close()
    assert shared.closed


class TeamCalendar(Calendar):
    def add(self, event: str, hour: int = 9) -> str:
        return super().add(f"team {event}", hour)

    agenda = None

    def invite(self, who: str) -> str:
        """Invite someone.

        Args:
            who: Their name.
        """
        return f"invited {who}"


def test_methods_of_a_base_class_are_tools_and_an_override_inherits_its_docstring() -> None:
    tools = {entry.name: entry for entry in toolkit(TeamCalendar)}
    assert list(tools) == ["add", "move", "clock", "stamp", "invite"]
    assert tools["add"].schema["function"]["description"] == "Add an event."
    assert tools["add"].schema["function"]["parameters"]["properties"]["hour"]["default"] == 9
    episodes: Episodes = []
    play(environment(TeamCalendar, episodes=episodes), call("add", event="x"), say("done"))
    assert episodes[0]["team_calendar"].events == {"team x": 9}


def test_abstract_bases_add_no_tools() -> None:
    class Base(abc.ABC):
        @abc.abstractmethod
        def act(self) -> str: ...

    class Door(Base):
        def act(self) -> str:
            """Open it."""
            return "open"

    assert [entry.name for entry in toolkit(Door)] == ["act"]


def test_a_saved_episode_is_regraded_on_a_new_instance() -> None:
    def reward(task: Task, episode: Any) -> float:
        return float(episode.state["calendar"].events["lunch"] == 14)

    env = ToolEnv(tasks=[Task("a", "p")], tools=[Calendar], reward=reward)
    script = [call("add", event="lunch"), call("move", event="lunch", hours=2), say("done")]
    engine = RolloutEngine(ScriptedChatPolicy(script), None)
    trajectory = engine.run([RolloutRequest(env, env.tasks[0], "e")])[0]
    assert trajectory.usage["events"] == 1
    assert [again.trajectory.score.value for again in regrade([trajectory], lambda _: env)] == [1.0]
    assert [calendar.closed for calendar in Calendar.made] == [True, True]
