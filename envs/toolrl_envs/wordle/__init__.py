"""A word game: guess the secret word from what is told about the letters of each guess."""

from toolrl_envs.wordle.env import WordleEnv

__all__ = ["WordleEnv"]
