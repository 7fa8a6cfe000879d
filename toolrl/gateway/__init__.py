"""The gateway: an address that speaks the APIs of OpenAI and Anthropic, in front of a policy whose tokens are kept.

An agent that was written with somebody else's SDK plays episodes through it (`AgentProgram`).
"""

from toolrl.gateway.gateway import Gateway, GatewayLimits
from toolrl.gateway.program import AgentContext, AgentProgram, ProgramEngine, parse_agent
from toolrl.gateway.tools import EpisodeOver, ToolMistake
from toolrl.gateway.tree import Conversations, Node

__all__ = [
    "AgentContext",
    "AgentProgram",
    "Conversations",
    "EpisodeOver",
    "Gateway",
    "GatewayLimits",
    "Node",
    "ProgramEngine",
    "ToolMistake",
    "parse_agent",
]
