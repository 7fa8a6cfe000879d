"""Promises about `toolrl/DocsSearch-v0`: its paraphrased questions can be answered by searching."""

from __future__ import annotations

import re

from toolrl import make
from toolrl.evaluation import evaluate
from toolrl_envs.docs_search.env import PARAPHRASES


def test_paraphrased_questions_are_answered_by_searching_and_are_in_no_words_of_the_generator() -> None:
    env = make("toolrl/DocsSearch-v0", split="test", paraphrased=True)
    assert len(PARAPHRASES.read_text().splitlines()) == 50
    assert len(env.tasks) > 40, "some are about modules that later versions of Python do not have"
    [report] = evaluate({"toolrl/DocsSearch-v0": env}, None, None, tasks=50).values()
    assert (report.success, report.unscored) == (1.0, 0)
    names = re.compile(r"\S*[._A-Z]\S*")
    generated = {names.sub("NAME", task.prompt) for task in make("toolrl/DocsSearch-v0", split="test").tasks}
    assert not generated & {names.sub("NAME", task.prompt) for task in env.tasks}
