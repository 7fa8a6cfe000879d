"""Everyone's trajectories: logs that other programs wrote, as ours, as far as they say.

What a log does not say is absent: no tokens, no log-probabilities, no reward are made up.
"""

from toolrl.interop.logs.reading import FORMATS, read_log

__all__ = ["FORMATS", "read_log"]
