"""Evaluation: success with intervals, pass@k, and tool use."""

from toolrl.evaluation.evaluate import FACTS, EnvReport, evaluate, summarise
from toolrl.evaluation.statistics import bootstrap_interval, mean, pass_at_k, wilson_interval
from toolrl.evaluation.tables import before_after_table, report_table, short_name, terminal
from toolrl.support.progress import progress

__all__ = [
    "FACTS",
    "EnvReport",
    "before_after_table",
    "bootstrap_interval",
    "evaluate",
    "mean",
    "pass_at_k",
    "progress",
    "report_table",
    "short_name",
    "summarise",
    "terminal",
    "wilson_interval",
]
