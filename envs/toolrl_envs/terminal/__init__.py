"""Terminal tasks: work with files in a shell, and programs to write."""

from toolrl_envs.terminal.env import TerminalEnv

__all__ = ["TerminalEnv"]
