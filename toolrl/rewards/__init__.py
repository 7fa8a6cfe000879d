"""Verifiable rewards: small typed functions from `(task, episode)` to a `Score`."""

from toolrl.rewards.answers import answer_reward, exact_match, extract_answer, normalise, numbers_equal
from toolrl.rewards.economy import with_call_cost
from toolrl.rewards.instructions import Instruction, ifeval_task, instruction_kind, instructions_reward
from toolrl.rewards.qa import Metric, qa_reward, squad_exact_match, squad_normalise, token_f1

__all__ = [
    "Instruction",
    "Metric",
    "answer_reward",
    "exact_match",
    "extract_answer",
    "ifeval_task",
    "instruction_kind",
    "instructions_reward",
    "normalise",
    "numbers_equal",
    "qa_reward",
    "squad_exact_match",
    "squad_normalise",
    "token_f1",
    "with_call_cost",
]
