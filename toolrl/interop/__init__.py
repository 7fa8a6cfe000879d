"""Neighbours' environments as environments of toolrl."""

from toolrl.interop.gymnasium import Game, GameEnv, from_gymnasium

__all__ = ["Game", "GameEnv", "from_gymnasium"]
