"""Promises about made-up worlds: each question has one answer, which the oracle finds; splits share nothing."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import ConfigError, Renderer, TaskError, call
from toolrl.chat import HermesDialect
from toolrl.evaluation import evaluate
from toolrl_envs.world_qa import WorldQAEnv
from toolrl_envs.world_qa.env import same_answer
from toolrl_envs.world_qa.names import FIRST_NAMES, PROFESSIONS, SETTLEMENTS
from toolrl_envs.world_qa.relations import RELATIONS
from toolrl_envs.world_qa.world import World, WorldSettings, make_world

ROLES = "|".join([*SETTLEMENTS, "novel", "film", "play", "song"])
NAME = r"[^.]+"
# The parts of names other than stems.
COMMON = """
    Port North South New Old Bay Hill Bridge Valley Coast Lower Upper Lands East West Republic Islands Kingdom Union
    Bank Works Press Mills Steel Radio Lines Foods Glass Song of Return to The Letters Night in Garden A Day Lost
    Cup Race Games Prize Fair Open Derby
"""


def world_of(documents: int = 400, namesakes: float = 0.3, seed: int = 0, split: Any = "train") -> World:
    return make_world(WorldSettings(documents, namesakes, seed, split))


# ---- worlds


@pytest.mark.parametrize("documents", [50, 51, 1000])
def test_a_world_has_the_requested_number_of_documents_with_distinct_titles(documents: int) -> None:
    pages = world_of(documents).documents
    assert len(pages) == documents
    assert len({page.title for page in pages}) == len({page.id for page in pages}) == documents
    for page in pages:
        assert page.text.startswith(page.title)
        assert 2 <= len(re.findall(r"\.(?: |$)", page.text)) <= 6


def test_all_kinds_of_entities_occur_and_are_linked() -> None:
    world = world_of(50)
    assert set(Counter(entity.kind for entity in world.entities)) == {
        *("person", "town", "region", "country", "company", "work", "event")
    }
    for facts in world.facts:
        for fact in facts:
            assert fact.target is None or world.entities[fact.target].title == fact.value


def test_the_share_of_namesakes_is_as_requested_and_parentheses_tell_them_apart() -> None:
    for share in (0.0, 0.3, 0.8):
        world = world_of(1000, share)
        for kind in ("person", "town"):
            entities = [entity for entity in world.entities if entity.kind == kind]
            doubled = [entity for entity in entities if entity.has_namesakes]
            assert len(doubled) / len(entities) == pytest.approx(share, abs=0.02)
            count = Counter(entity.name for entity in entities)
            assert all((count[entity.name] == 2) == entity.has_namesakes for entity in entities)
            assert all(entity.title == f"{entity.name} ({entity.role})" for entity in doubled)


def test_worlds_of_the_splits_and_of_near_seeds_share_no_name() -> None:
    def own_words(world: World) -> set[str]:
        words = {word for entity in world.entities for word in re.findall(r"\w+", entity.title)}
        return words - {
            *re.findall(r"\w+", COMMON),
            *FIRST_NAMES["she"],
            *FIRST_NAMES["he"],
            *PROFESSIONS,
            *SETTLEMENTS,
        }

    worlds = [own_words(world_of(seed=seed, split=split)) for seed in (0, 1, 31) for split in ("train", "test")]
    assert all(len(words) > 50 for words in worlds)
    assert len(set().union(*worlds)) == sum(map(len, worlds))


def test_a_world_and_its_questions_are_the_same_in_every_process() -> None:
    program = (
        "from toolrl_envs.world_qa import WorldQAEnv; import hashlib\n"
        "from toolrl_envs.world_qa.world import WorldSettings, make_world\n"
        "documents = make_world(WorldSettings(300, 0.2, 3, 'test')).documents\n"
        "tasks = list(WorldQAEnv('test', documents=300, seed=3, hops=(1, 3), size=50).tasks)\n"
        "print(hashlib.sha256(repr((documents, tasks)).encode()).hexdigest())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "12"
    }
    assert len(printed) == 1


# ---- questions, checked by reading: what the documents say is parsed back, and the question followed through it


def pattern(wording: str, **fields: str) -> re.Pattern[str]:
    text = re.escape(wording)
    for name, regex in fields.items():
        text = text.replace(re.escape("{" + name + "}"), regex)
    return re.compile(text)


def read_facts(world: World) -> dict[tuple[str, str], set[str]]:
    """(title, relation) to values, from the texts alone."""
    own = "(?:her|his|its)"
    wordings = [
        (relation, pattern(wording, it=f"(?:She|He|It|{NAME})", its=own.title(), its_own=own, role=f"(?:{ROLES})",
                           value=f"(?P<value>{NAME})"))
        for relation, known in RELATIONS.items()
        for wording in known.sentences
    ]  # fmt: skip
    wordings = [
        (relation, re.compile(regex.pattern.replace("Her|His|Its", own.title()))) for relation, regex in wordings
    ]
    facts: dict[tuple[str, str], set[str]] = {}
    for page in world.documents:
        for line in page.text.rstrip(".").split(". "):
            for relation, regex in wordings:
                if found := regex.fullmatch(f"{line}."):
                    facts.setdefault((page.title, relation), set()).add(found.group("value"))
    return facts


def follow(text: str, facts: dict[tuple[str, str], set[str]], titles: set[str], templates: str) -> set[str]:
    """Everything that a question or a noun phrase can mean."""
    if text in titles and templates == "phrase":
        return {text}
    reached = set()
    for name, relation in RELATIONS.items():
        for template in relation.questions if templates == "questions" else (relation.phrase,):
            if template and (found := pattern(template, x="(?P<x>.+)").fullmatch(text)):
                for subject in follow(found.group("x"), facts, titles, "phrase"):
                    reached |= facts.get((subject, name), set())
    return reached


@pytest.mark.parametrize("documents", [60, 400])
def test_reading_all_documents_gives_exactly_one_answer_to_each_question(documents: int) -> None:
    settings: dict[str, Any] = {"documents": documents, "namesakes": 0.3, "seed": 5}
    world = world_of(**settings)
    facts, titles = read_facts(world), {page.title for page in world.documents}
    tasks = WorldQAEnv(hops=(1, 2, 3, 4), size=400, **settings).tasks
    assert len(tasks) == 400
    for task in tasks:
        assert follow(task.prompt, facts, titles, "questions") == {task.answer}, task


def test_facts_that_no_document_states_count_too_when_answers_are_counted() -> None:
    """Even a second child that no document names would make a question ambiguous."""
    world = world_of()
    several = [
        (index, relation)
        for index, facts in enumerate(world.facts)
        for relation, count in Counter(fact.relation for fact in facts).items()
        if count > 1
    ]
    assert several
    for index, relation in several:
        assert len(world.answers(index, [relation])) > 1
        assert relation not in {fact.relation for fact in world.pages[index].ends}


def test_each_hop_is_a_document_and_only_the_last_one_has_the_answer() -> None:
    world = world_of(seed=2)
    texts = {page.title: page.text for page in world.documents}
    tasks = WorldQAEnv(hops=(1, 2, 3, 4), documents=400, namesakes=0.3, seed=2, size=400).tasks
    kinds = Counter(task.kind for task in tasks)
    assert kinds == {"1-hop": 100, "2-hop": 100, "3-hop": 100, "4-hop": 100}
    for task in tasks:
        queries = task.metadata["queries"]
        assert len(set(queries)) == task.metadata["hops"] == len(task.metadata["relations"])
        assert queries[0] == task.metadata["subject"]
        assert queries[0] in task.prompt
        assert task.answer not in task.prompt
        assert [task.answer in texts[title] for title in queries] == [False] * (len(queries) - 1) + [True]
        assert all(later in texts[earlier] for earlier, later in itertools.pairwise(queries))
        assert "(" not in task.answer


def test_answers_are_of_many_kinds_including_numbers_and_dates() -> None:
    tasks = WorldQAEnv(hops=(1, 2), size=1000).tasks
    assert len({task.metadata["relations"][-1] for task in tasks}) > 20
    assert sum(bool(re.fullmatch(r"\d+", task.answer)) for task in tasks) > 50
    assert sum(bool(re.fullmatch(r"\d+ [A-Z][a-z]+ \d{4}", task.answer)) for task in tasks) > 50
    assert max(Counter(task.answer for task in tasks).values()) < 100  # no answer is worth guessing


def test_subjects_with_namesakes_are_asked_about_by_their_full_title() -> None:
    tasks = WorldQAEnv(hops=1, documents=400, namesakes=0.8, size=200).tasks
    titles = {page.title for page in world_of(400, 0.8).documents}
    qualified = [task for task in tasks if "(" in task.prompt]
    assert len(qualified) > len(tasks) / 4
    assert all(task.metadata["subject"] in titles for task in tasks)


# ---- searching


@pytest.fixture(scope="module")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ({"documents": 50, "hops": (1, 2)}, 100),
        ({"documents": 50, "hops": (1, 2), "split": "test", "seed": 9}, 100),
        ({"documents": 1000, "hops": (1, 2, 3, 4), "namesakes": 0.8}, 200),
        ({"documents": 1000, "hops": 2, "results": 1, "snippet_characters": 90}, 100),
        ({"documents": 10_000, "hops": (1, 2, 3, 4), "seed": 1}, 100),
        pytest.param({"documents": 100_000, "hops": (1, 2, 3, 4)}, 100, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_each_search_of_the_oracle_shows_what_the_next_step_needs(
    settings: dict[str, Any], tasks: int, renderer: Renderer
) -> None:
    env = WorldQAEnv(size=tasks, **settings)
    played = []
    try:
        report = evaluate({"world": env}, None, renderer, tasks=tasks, on_trajectory=played.append)["world"]
    finally:
        env.close()
    assert (report.success, report.samples, report.unscored) == (1.0, len(env.tasks), 0)
    assert len(played) == tasks
    for trajectory in played:
        task = env.tasks.by_id(trajectory.task_id)
        shown = [result.content for result in trajectory.tool_results]
        needed = [*task.metadata["queries"][1:], task.answer]
        assert all(text in result for text, result in zip(needed, shown, strict=True)), (task, shown)
        assert trajectory.score.value == pytest.approx(max(0.5, 1 - 0.1 * len(shown)))


def test_a_name_without_parentheses_finds_all_its_bearers() -> None:
    env = WorldQAEnv(namesakes=0.5)
    world = world_of(1000, 0.5)
    name = next(entity.name for entity in world.entities if entity.has_namesakes and entity.kind == "person")
    env.reset(seed=0)
    observation = env.step(HermesDialect().format(call("search", query=name)))[0]
    bearers = [entity.title for entity in world.entities if entity.name == name]
    assert len(bearers) == 2
    assert all(title in observation for title in bearers)


# ---- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hops": 0}, "hops must be a number from 1 to 4, or several, got 0"),
        ({"hops": (2, 5)}, r"got \(2, 5\)"),
        ({"hops": ()}, r"got \(\)"),
        ({"documents": 49}, "documents must be from 50 to 100000, got 49"),
        ({"documents": 100_001}, "got 100001"),
        ({"namesakes": 0.9}, "namesakes must be from 0 to 0.8, got 0.9"),
        ({"split": "dev"}, "got 'dev'"),
        ({"call_cost": -1}, "call cost must be >= 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WorldQAEnv(**settings)


def test_snippets_too_short_for_any_fact_are_refused() -> None:
    with pytest.raises(TaskError, match=r"no question of \(2,\) hops .* first 10 characters"):
        WorldQAEnv(documents=50, snippet_characters=10)


def test_a_question_is_one_task_however_it_is_worded() -> None:
    tasks = WorldQAEnv(documents=50, hops=1, size=2000).tasks
    assert len({(task.metadata["subject"], *task.metadata["relations"]) for task in tasks}) == len(tasks) < 2000


def test_numbers_may_have_separators_and_names_any_case() -> None:
    assert same_answer("12,400", "12400")
    assert same_answer(" port maron ", "Port Maron")
    assert not same_answer("12401", "12400")
    assert not same_answer("Maron", "Port Maron")
