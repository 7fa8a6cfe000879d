"""Evaluation: success with intervals, pass@k, tool use, and comparisons."""

from toolrl.evaluation.arena import Arena, Standing, arena
from toolrl.evaluation.calibration import Calibration, calibrate, calibration, calibration_table, risk_coverage
from toolrl.evaluation.compare import Comparison, Difference, compare
from toolrl.evaluation.counterfactuals import CONDITIONS, Counterfactuals, counterfactual_tables, counterfactuals
from toolrl.evaluation.evaluate import SOLUTIONS, EnvReport, evaluate, summarise
from toolrl.evaluation.preferences import Preferences, judge_ties
from toolrl.evaluation.statistics import mean, pass_all_k, pass_at_k, success_interval, wilson_interval
from toolrl.evaluation.tables import before_after_table, report_table, short_name, terminal
from toolrl.evaluation.thinking import Thinking, compare_thinking, thinking_tables
from toolrl.support.progress import progress

__all__ = [
    "CONDITIONS",
    "SOLUTIONS",
    "Arena",
    "Calibration",
    "Comparison",
    "Counterfactuals",
    "Difference",
    "EnvReport",
    "Preferences",
    "Standing",
    "Thinking",
    "arena",
    "before_after_table",
    "calibrate",
    "calibration",
    "calibration_table",
    "compare",
    "compare_thinking",
    "counterfactual_tables",
    "counterfactuals",
    "evaluate",
    "judge_ties",
    "mean",
    "pass_all_k",
    "pass_at_k",
    "progress",
    "report_table",
    "risk_coverage",
    "short_name",
    "success_interval",
    "summarise",
    "terminal",
    "thinking_tables",
    "wilson_interval",
]
