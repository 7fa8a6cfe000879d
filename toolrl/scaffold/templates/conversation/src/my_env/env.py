"""Customers of a restaurant, who want to change a booking and write back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated

from toolrl import Ended, Episode, Limits, Message, Score, Task, TaskSet, ToolEnv, ToolError, call, say
from toolrl.users import ScriptedUser

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
PEOPLE = ("Ada", "Bo", "Carla", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jan", "Kim", "Lea", "Max", "Nora", "Otto")
SYSTEM_PROMPT = (
    "You serve the guests of a restaurant. Ask for the number of the booking and for the new day. Say that the booking "
    "is moved once it is."
)

Number = Annotated[int, "The number of the booking."]


# Tools that share a state are the methods of a class, of which each episode has an instance. Private methods are not
# tools. Mistakes of the model raise ToolError, whose text it can learn from.
class Bookings:
    """The bookings of a task."""

    def __init__(self, task: Task):
        self.days: dict[int, str] = dict(task.metadata["bookings"])

    def look_up(self, number: Number) -> str:
        """Tell the day of a booking."""
        self._check(number)
        return self.days[number]

    def move(self, number: Number, day: Annotated[str, "The new day of the week."]) -> str:
        """Move a booking to another day."""
        self._check(number)
        if day not in DAYS:
            raise ToolError(f"{day!r} is not a day; days are {', '.join(DAYS)}")
        self.days[number] = day
        return f"Booking {number} is now on {day}."

    def _check(self, number: int) -> None:
        if number not in self.days:
            raise ToolError(f"no booking has the number {number}")


# A task is what the customer says first, and the state in which everything should be in the end.
def make_task(rng: random.Random, index: int) -> Task:
    """Make a customer with a booking among others."""
    old, new = rng.sample(DAYS, 2)
    bookings = [(number, rng.choice(DAYS)) for number in rng.sample(range(100, 1000), 4)]
    number = bookings[0][0]
    bookings[0] = (number, old)
    prompt = f"Hello, this is {rng.choice(PEOPLE)}. I cannot come on {old} and would like another day."
    answer = [(other, new if other == number else day) for other, day in bookings]
    return Task(f"guest-{index}", prompt, answer, {"bookings": bookings, "number": number, "new": new})


# The customer's rules: the first one that is found in what the agent says gives the reply. `Ended` hangs up. A
# customer knows what a person would know, never the answer; `toolrl.users.ModelUser` has a model play one.
def script(task: Task) -> Mapping[str, str | Ended]:
    """What the customer of a task says."""
    return {
        r"\bmoved\b": Ended("Thank you, goodbye.", "told"),
        r"\bnumber\b": f"It is {task.metadata['number']}.",
        r"\bday\b": f"{task.metadata['new']}, please.",
    }


# The solution shows that a task can be solved, and makes demonstrations.
def solve(task: Task) -> Sequence[Message]:
    """Ask for what is needed, move the booking, and say so."""
    number, new = task.metadata["number"], task.metadata["new"]
    return [
        say("What is the number of the booking?"),
        call("look_up", number=number),
        say("Which day would you like?"),
        call("move", number=number, day=new),
        say(f"Your booking is moved to {new}."),
    ]


# Grade the state, and never what the agent claims: a claim is only the second condition.
def reward(task: Task, episode: Episode) -> Score:
    """1 if this booking was moved, no other was, and the customer was told."""
    bookings: Bookings | None = episode.state.get("bookings")  # there is none if no tool was called
    moved = bookings is not None and bookings.days == dict(task.answer)
    told = episode.ending == "told"
    return Score(float(moved and told), {"correct": float(moved and told), "moved": moved, "told": told})


class MyEnv(ToolEnv):
    """Customers who want to change a booking."""

    def __init__(self, split: str = "train", *, size: int = 1000, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; about a fifth of the prompts is held out.
            size: Number of tasks of both splits together.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.
        """
        super().__init__(
            tasks=TaskSet.generate(make_task, size, seed).of_split(split),
            tools=[Bookings],
            user=ScriptedUser(script, otherwise="I just want to move my booking."),
            reward=reward,
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=10, tool_calls=8, completion_tokens=2048),
            oracle=solve,
            render_mode=render_mode,
        )
