"""Chat: renders messages as tokens (append-only), and parses sampled text into messages."""

from toolrl.chat.dialects import DIALECTS, Dialect, HermesDialect, dialect_named
from toolrl.chat.renderer import Renderer

__all__ = ["DIALECTS", "Dialect", "HermesDialect", "Renderer", "dialect_named"]
