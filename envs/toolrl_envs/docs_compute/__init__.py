"""Questions that need both tools: find a fact, then compute with it."""

from toolrl_envs.docs_compute.env import DocsComputeEnv

__all__ = ["DocsComputeEnv"]
