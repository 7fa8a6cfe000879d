"""Verifiable rewards: small typed functions from `(task, episode)` to a `Score`."""

from toolrl.rewards.answers import answer_reward, exact_match, extract_answer, normalise, numbers_equal
from toolrl.rewards.economy import with_call_cost

__all__ = ["answer_reward", "exact_match", "extract_answer", "normalise", "numbers_equal", "with_call_cost"]
