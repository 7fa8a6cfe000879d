"""Verifiable rewards: small typed functions from `(task, episode)` to a `Score`."""

from toolrl.rewards.answers import answer_reward, exact_match, extract_answer, normalise, numbers_equal
from toolrl.rewards.economy import with_call_cost
from toolrl.rewards.extraction import AnswerForm, choice_letter, find_answer
from toolrl.rewards.judge import Judge, JudgeFault, JudgeSettings
from toolrl.rewards.math import math_reward, verify_math
from toolrl.rewards.math_pool import MathVerifier, Verdict
from toolrl.rewards.qa import Metric, qa_reward, squad_exact_match, squad_normalise, token_f1
from toolrl.rewards.quantities import Quantity, any_of, parse_quantity, quantities_equal, within
from toolrl.rewards.rubric import Term, rubric

__all__ = [
    "AnswerForm",
    "Judge",
    "JudgeFault",
    "JudgeSettings",
    "MathVerifier",
    "Metric",
    "Quantity",
    "Term",
    "Verdict",
    "answer_reward",
    "any_of",
    "choice_letter",
    "exact_match",
    "extract_answer",
    "find_answer",
    "math_reward",
    "normalise",
    "numbers_equal",
    "parse_quantity",
    "qa_reward",
    "quantities_equal",
    "rubric",
    "squad_exact_match",
    "squad_normalise",
    "token_f1",
    "verify_math",
    "with_call_cost",
    "within",
]
