"""Functions and programs to be written against hidden tests."""

from toolrl_envs.code_tests.env import CodeTestsEnv

__all__ = ["CodeTestsEnv"]
