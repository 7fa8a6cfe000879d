"""Arithmetic and number problems: some need the computer, some do not."""

from toolrl_envs.python_math.env import PythonMathEnv

__all__ = ["PythonMathEnv"]
