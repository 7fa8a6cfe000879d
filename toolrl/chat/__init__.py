"""Chat: messages to tokens (append-only), and sampled text to messages."""

from toolrl.chat.dialects import Dialect, HermesDialect
from toolrl.chat.renderer import Renderer

__all__ = ["Dialect", "HermesDialect", "Renderer"]
