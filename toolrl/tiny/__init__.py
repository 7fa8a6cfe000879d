"""The embedded policy: a Qwen3-architecture model of about a million parameters, shipped with toolrl.

It knows the format of tool calls and how to copy, but uses its tools badly: a starting point, not a solution.
`python -m toolrl.tiny.make` makes it.
"""

from toolrl.policy.settings import TINY_PATH as PATH

__all__ = ["PATH"]
