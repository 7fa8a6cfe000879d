"""Verifiable rewards: small typed functions that take `(task, episode)` and return a `Score`."""

from toolrl.rewards.answers import answer_reward, exact_match, normalise, numbers_equal
from toolrl.rewards.choices import choice_letter
from toolrl.rewards.code.asserts import called_function, read_asserts
from toolrl.rewards.code.grading import SuiteOutcome, TestOutcome, UngradableTest, grade_code
from toolrl.rewards.code.hacks import Hack, find_hacks
from toolrl.rewards.code.reward import code_reward
from toolrl.rewards.code.suite import AssertTest, CallTest, CodeSuite, CodeTest, StdioTest
from toolrl.rewards.code.values import Comparison, same_output, same_value
from toolrl.rewards.economy import check_call_cost, partial_value, with_call_cost
from toolrl.rewards.extraction import AnswerForm, find_answer, find_code, tagged_answer
from toolrl.rewards.group import RankingJudge, diversity, prefer, relative_cost
from toolrl.rewards.judge import Judge, JudgeFault, JudgeSettings
from toolrl.rewards.math.pool import MathVerdict, MathVerifier
from toolrl.rewards.math.reward import math_reward, verify_math
from toolrl.rewards.qa import Metric, qa_reward, squad_exact_match, squad_normalise, token_f1
from toolrl.rewards.quantities import Quantity, any_of, parse_quantity, quantities_equal, within
from toolrl.rewards.shaping import Term, shaped_reward
from toolrl.rewards.state import StoreState, Table, WreckedStore, read_state, state_difference, state_reward

__all__ = [
    "AnswerForm",
    "AssertTest",
    "CallTest",
    "CodeSuite",
    "CodeTest",
    "Comparison",
    "Hack",
    "Judge",
    "JudgeFault",
    "JudgeSettings",
    "MathVerdict",
    "MathVerifier",
    "Metric",
    "Quantity",
    "RankingJudge",
    "StdioTest",
    "StoreState",
    "SuiteOutcome",
    "Table",
    "Term",
    "TestOutcome",
    "UngradableTest",
    "WreckedStore",
    "answer_reward",
    "any_of",
    "called_function",
    "check_call_cost",
    "choice_letter",
    "code_reward",
    "diversity",
    "exact_match",
    "find_answer",
    "find_code",
    "find_hacks",
    "grade_code",
    "math_reward",
    "normalise",
    "numbers_equal",
    "parse_quantity",
    "partial_value",
    "prefer",
    "qa_reward",
    "quantities_equal",
    "read_asserts",
    "read_state",
    "relative_cost",
    "same_output",
    "same_value",
    "shaped_reward",
    "squad_exact_match",
    "squad_normalise",
    "state_difference",
    "state_reward",
    "tagged_answer",
    "token_f1",
    "verify_math",
    "with_call_cost",
    "within",
]
