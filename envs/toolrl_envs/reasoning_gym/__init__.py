"""Any generator of the reasoning-gym package, with or without a python tool."""

from toolrl_envs.reasoning_gym.env import ReasoningGymEnv

__all__ = ["ReasoningGymEnv"]
