"""Questions whose answer stands in the Python standard library's documentation."""

from toolrl_envs.docs_search.env import DocsSearchEnv

__all__ = ["DocsSearchEnv"]
