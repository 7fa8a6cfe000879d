"""Questions over several documents about worlds that are made up."""

from toolrl_envs.world_qa.env import WorldQAEnv

__all__ = ["WorldQAEnv"]
