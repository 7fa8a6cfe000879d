"""Functions and programs to write against hidden tests."""

from toolrl_envs.code_tests.env import CodeTestsEnv

__all__ = ["CodeTestsEnv"]
