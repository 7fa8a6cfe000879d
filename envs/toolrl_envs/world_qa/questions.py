"""Questions that follow stated facts from entity to entity, each with exactly one answer in its world."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from toolrl import ConfigError, Task, TaskError, TaskSet
from toolrl_envs.world_qa.relations import RELATIONS, Fact
from toolrl_envs.world_qa.world import World

MOST_HOPS = 4
_FRUITLESS = 1000  # consecutive attempts without a new question before giving up


def check_hops(hops: int | Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of hops as a tuple.

    Raises:
        ConfigError: A number is not from 1 to 4, or the sequence is empty.
    """
    wanted = (hops,) if isinstance(hops, int) else tuple(hops)
    if not wanted or any(type(number) is not int or not 1 <= number <= MOST_HOPS for number in wanted):
        raise ConfigError(f"hops must be a number from 1 to {MOST_HOPS}, or several, got {hops!r}")
    return wanted


def make_tasks(world: World, hops: Sequence[int], size: int, snippet_characters: int, rng: random.Random) -> TaskSet:
    """Draw questions about a world, in equal shares for each number of hops while they last.

    Args:
        world: The world.
        hops: Numbers of facts to combine.
        size: Maximum number of questions; a small world has fewer.
        snippet_characters: Number of characters that a search shows of a document; questions ask only about these.
        rng: Fixes the questions and their order.

    Raises:
        TaskError: The world has no such question.
    """
    asker = _Asker(world, snippet_characters, rng)
    tasks: dict[str, Task] = {}
    count, fruitless = [0] * len(hops), [0] * len(hops)
    places = list(range(len(hops)))
    while len(tasks) < size and places:
        place = min(places, key=count.__getitem__)
        task = asker.draw(hops[place])
        if task is not None and task.id not in tasks:
            tasks[task.id] = task
            count[place] += 1
            fruitless[place] = 0
        else:
            fruitless[place] += 1
            if fruitless[place] == _FRUITLESS:
                places.remove(place)
    if not tasks:
        raise TaskError(
            f"this world has no question of {tuple(hops)} hops whose facts are in the first {snippet_characters} "
            "characters of their documents; raise snippet_characters or documents"
        )
    drawn = list(tasks.values())
    rng.shuffle(drawn)
    return TaskSet(drawn)


class _Asker:
    def __init__(self, world: World, snippet_characters: int, rng: random.Random):
        self._world = world
        self._rng = rng
        self._characters = snippet_characters
        self._shown: dict[int, list[Fact]] = {}
        # Draw a kind first: otherwise most questions would begin with a person.
        self._kinds: dict[str, list[int]] = {}
        for index, entity in enumerate(world.entities):
            self._kinds.setdefault(entity.kind, []).append(index)

    def draw(self, hops: int) -> Task | None:
        """Draw a question with this number of hops, or None if the attempt fails."""
        index = self._rng.choice(self._kinds[self._rng.choice(list(self._kinds))])
        path = [index]
        facts: list[Fact] = []
        for step in range(1, hops + 1):
            onward = [
                fact
                for fact in self._facts_shown(path[-1])
                if fact.target not in path and (fact.target is not None or step == hops)
            ]
            if not onward:
                return None
            facts.append(self._rng.choice(onward))
            if step < hops:
                assert facts[-1].target is not None
                path.append(facts[-1].target)
        return self._task(path, facts) if self._is_sound(path, facts) else None

    def _facts_shown(self, index: int) -> list[Fact]:
        if index not in self._shown:
            page = self._world.pages[index]
            text, seen = page.document.text, self._characters
            if len(text) > seen:
                seen = len(text[:seen].rsplit(" ", 1)[0])  # the way the search tool cuts
            self._shown[index] = [fact for fact, end in page.ends.items() if end <= seen]
        return self._shown[index]

    def _is_sound(self, path: Sequence[int], facts: Sequence[Fact]) -> bool:
        """Whether the answer is unique, a plain name or number, and only in the last document."""
        answer, target = facts[-1].value, facts[-1].target
        if target is not None and self._world.entities[target].has_namesakes:
            return False
        if any(answer in self._world.pages[index].document.text for index in path[:-1]):
            return False
        return self._world.answers(path[0], [fact.relation for fact in facts]) == {answer}

    def _task(self, path: Sequence[int], facts: Sequence[Fact]) -> Task:
        titles = [self._world.entities[index].title for index in path]
        subject = titles[0]
        for fact in facts[:-1]:
            subject = RELATIONS[fact.relation].phrase.format(x=subject)
        prompt = self._rng.choice(RELATIONS[facts[-1].relation].questions).format(x=subject)
        relations = [fact.relation for fact in facts]
        # Two wordings of a question are the same task.
        key = hashlib.sha256("/".join([titles[0], *relations]).encode()).hexdigest()[:12]
        kind = f"{len(facts)}-hop"
        metadata = {
            "hops": len(facts),
            "subject": titles[0],
            "relations": relations,
            "queries": titles,
        }
        return Task(f"{kind}-{key}", prompt, facts[-1].value, metadata, kind=kind, needs_tool=True)
