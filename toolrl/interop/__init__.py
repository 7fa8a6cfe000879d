"""Environments of neighbours, as ours."""

from toolrl.interop.harbor import HarborEnv, HarborTask, read_harbor_tasks
from toolrl.interop.verifier import Verifier

__all__ = ["HarborEnv", "HarborTask", "Verifier", "read_harbor_tasks"]
