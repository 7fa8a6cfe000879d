"""Gymnasium's toy-text games, in words."""

from toolrl_envs.toy_text.env import ToyTextEnv

__all__ = ["ToyTextEnv"]
