"""Multi-hop questions about made-up worlds."""

from toolrl_envs.world_qa.env import WorldQAEnv

__all__ = ["WorldQAEnv"]
