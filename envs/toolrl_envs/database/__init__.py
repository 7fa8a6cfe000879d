"""A small company's database: questions about it, and changes to it, some of which its rules forbid."""

from toolrl_envs.database.env import DatabaseEnv

__all__ = ["DatabaseEnv"]
