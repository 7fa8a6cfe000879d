"""Answers to open questions: exact match and token F1, as in SQuAD and HotpotQA.

Source: `evaluate-v1.1.py` of SQuAD, section 4.3 of the paper (arXiv:1606.05250), and
https://github.com/hotpotqa/hotpot/blob/4c0fa5ea6541391ab86170c2f9c57eb87776ad16/hotpot_evaluate_v1.py for yes and no.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal

from toolrl.errors import ConfigError
from toolrl.rewards.economy import check_call_cost, partial_value, with_call_cost
from toolrl.rewards.extraction import tagged_answer
from toolrl.types import Episode, Score, Task

Metric = Literal["em", "f1"]

_articles = re.compile(r"\b(a|an|the)\b")
_punctuation = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")


def squad_normalise(text: str) -> str:
    """Lower the case, drop ASCII punctuation and English articles, collapse white space: as in SQuAD's script.

    `C++` becomes `c`, and `$5` becomes `5`; where punctuation matters, compare with `exact_match`. Two things differ
    from the script: composed and decomposed accents are equal, and no text becomes empty. A text that consists of
    articles or punctuation keeps them: `A.` becomes `a`, which is neither `The` nor an empty answer.
    """
    words = unicodedata.normalize("NFC", text).lower()
    bare = words.translate(_punctuation)
    for kept in (_articles.sub(" ", bare), bare, words):
        if kept := " ".join(kept.split()):
            return kept
    return ""


def squad_exact_match(answer: str, golds: str | Iterable[str]) -> bool:
    """Whether an answer equals one of the right answers after `squad_normalise`."""
    given = squad_normalise(answer)
    return given != "" and any(given == squad_normalise(gold) for gold in _texts(golds))


def token_f1(answer: str, golds: str | Iterable[str]) -> float:
    """The harmonic mean of precision and recall over words, for the right answer that matches best.

    As in HotpotQA, "yes" and "no" have no overlap with a longer answer.
    """
    return max((_f1(squad_normalise(answer), squad_normalise(gold)) for gold in _texts(golds)), default=0.0)


def qa_reward(metric: Metric = "em", *, call_cost: float = 0.0) -> Callable[[Task, Episode], Score]:
    """Make a reward for open questions: a metric of the `<answer>`, minus a cost per call for an exact one.

    A partly right answer pays no cost per call, so that searching on is never worse than giving up.
    With a cost, it earns `F1 * 0.5` instead: less than any exact answer, however many calls that took.
    `parts["correct"]` is the exact match with both metrics.

    Args:
        metric: "em" is 1 for an exact match and 0 otherwise, "f1" the F1 score over words.
        call_cost: Deducted from an exact answer for each tool call; see `with_call_cost`.

    Raises:
        ConfigError: `metric` is unknown, or `call_cost` is negative.
    """
    if metric not in ("em", "f1"):
        raise ConfigError(f"metric must be 'em' or 'f1', got {metric!r}")
    check_call_cost(call_cost)

    def reward(task: Task, episode: Episode) -> Score:
        answer = tagged_answer(episode.answer)
        if answer is None:
            reason = "no final message" if episode.answer is None else "no single <answer>...</answer> in it"
            return Score(0.0, {"correct": 0.0, "f1": 0.0, "answered": 0.0}, None, reason)
        exact, f1 = squad_exact_match(answer, task.answer), token_f1(answer, task.answer)
        parts = {"correct": float(exact), "f1": f1, "answered": 1.0}
        if exact:
            return with_call_cost(Score(1.0, parts, answer, "right"), episode, call_cost)
        return Score(
            partial_value(f1, call_cost) if metric == "f1" else 0.0, parts, answer, f"expected {task.answer!r}"
        )

    return reward


def _texts(golds: Any) -> list[str]:
    return [golds] if isinstance(golds, str) else [str(gold) for gold in golds]


def _f1(given: str, wanted: str) -> float:
    if given != wanted and (given in _CLOSED or wanted in _CLOSED):
        return 0.0
    given_words, wanted_words = given.split(), wanted.split()
    shared = (Counter(given_words) & Counter(wanted_words)).total()
    return 2 * shared / (len(given_words) + len(wanted_words)) if shared else 0.0
