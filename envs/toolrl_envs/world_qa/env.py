"""The `toolrl/WorldQA-v0` environment."""

from __future__ import annotations

import random
from collections.abc import Sequence

from toolrl import Limits, Message, Task, ToolEnv, call, say
from toolrl.rewards import answer_reward
from toolrl.tools import search_tool
from toolrl_envs.common import CALL_COST, SYSTEM_PROMPT, Split, check_split, same_answer
from toolrl_envs.world_qa.questions import check_hops, make_tasks
from toolrl_envs.world_qa.world import WorldSettings, make_world

RESULTS = 3
SNIPPET_CHARACTERS = 400
_TOKENS_PER_HOP = 1400  # a search with its results, in bytes


class WorldQAEnv(ToolEnv):
    """Multi-hop questions about a made-up world, with a search tool over its documents."""

    def __init__(
        self,
        split: Split = "train",
        *,
        hops: int | Sequence[int] = 2,
        documents: int = 1000,
        namesakes: float = 0.2,
        size: int = 2000,
        seed: int = 0,
        results: int = RESULTS,
        snippet_characters: int = SNIPPET_CHARACTERS,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; the splits are about different worlds.
            hops: Number of facts, each from a different document, that a question combines: 1 to 4, or several
                numbers for equal shares.
            documents: Number of documents in the world, from 50 to 100,000.
            namesakes: Fraction of people and towns that have a namesake.
            size: Maximum number of tasks.
            seed: Fixes the world, and the questions and their order.
            results: Number of documents that a search shows.
            snippet_characters: Number of characters shown of each; questions ask only about these.
            call_cost: Deducted from a right answer for each call.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range.
            TaskError: The world has no such question.
        """
        wanted = check_hops(hops)
        check_split(split, size)
        settings = WorldSettings(documents, namesakes, seed, split)
        rng = random.Random(f"questions/{split}/{seed}")
        deepest = max(wanted)
        super().__init__(
            tasks=make_tasks(make_world(settings), wanted, size, snippet_characters, rng),
            tools=[search_tool(settings, k=results, snippet_characters=snippet_characters)],
            reward=answer_reward(same_answer, call_cost=call_cost),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=deepest + 3, tool_calls=deepest + 2, completion_tokens=_TOKENS_PER_HOP * (deepest + 1)),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Search for each entity on the path, then answer."""
    searches = [call("search", query=query) for query in task.metadata["queries"]]
    return [*searches, say(f"<answer>{task.answer}</answer>")]
