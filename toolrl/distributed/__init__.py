"""Rollouts on more than one machine, with Ray."""

from toolrl.distributed.pool import RolloutPool
from toolrl.distributed.work import Playing, PoolSettings

__all__ = ["Playing", "PoolSettings", "RolloutPool"]
