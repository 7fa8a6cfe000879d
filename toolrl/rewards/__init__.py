"""Verifiable rewards: small typed functions from `(task, episode)` to a `Score`."""

from toolrl.rewards.answers import answer_reward, exact_match, extract_answer, normalise, numbers_equal
from toolrl.rewards.economy import with_call_cost
from toolrl.rewards.qa import Metric, qa_reward, squad_exact_match, squad_normalise, token_f1
from toolrl.rewards.state import StoreState, Table, WreckedStore, read_state, state_difference, state_reward

__all__ = [
    "Metric",
    "StoreState",
    "Table",
    "WreckedStore",
    "answer_reward",
    "exact_match",
    "extract_answer",
    "normalise",
    "numbers_equal",
    "qa_reward",
    "read_state",
    "squad_exact_match",
    "squad_normalise",
    "state_difference",
    "state_reward",
    "token_f1",
    "with_call_cost",
]
