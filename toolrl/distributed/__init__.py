"""Rollouts on more than one machine, with Ray."""

from toolrl.distributed.pool import RolloutPool
from toolrl.distributed.settings import PoolSettings
from toolrl.distributed.work import Playing

__all__ = ["Playing", "PoolSettings", "RolloutPool"]
