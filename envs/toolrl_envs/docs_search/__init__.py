"""Questions answered by the documentation of Python's standard library."""

from toolrl_envs.docs_search.env import DocsSearchEnv

__all__ = ["DocsSearchEnv"]
