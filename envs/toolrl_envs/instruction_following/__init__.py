"""Requests with instructions that a program can check, as in IFEval."""

from toolrl_envs.instruction_following.env import InstructionFollowingEnv

__all__ = ["InstructionFollowingEnv"]
