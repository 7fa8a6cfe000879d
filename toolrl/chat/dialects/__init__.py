"""How models write tool calls: text to `Message`, and back. A module for each kin of families."""

from __future__ import annotations

import difflib
from dataclasses import replace

from toolrl.chat.dialects.argument_tags import VALUE_TAG_DIALECTS
from toolrl.chat.dialects.bare_json import LlamaJsonDialect, XlamDialect
from toolrl.chat.dialects.base import Dialect
from toolrl.chat.dialects.channels import AtemDialect, HarmonyDialect
from toolrl.chat.dialects.gemma import FunctionGemmaDialect, GemmaDialect
from toolrl.chat.dialects.json_blocks import JSON_DIALECTS, HermesDialect
from toolrl.chat.dialects.pythonic import LfmDialect, OlmoDialect, PythonicDialect
from toolrl.chat.dialects.research import FencedDialect, TagDialect
from toolrl.chat.dialects.sections import (
    DeepSeek31Dialect,
    DeepSeekDialect,
    KimiDialect,
    MistralDialect,
    MistralNamedDialect,
)
from toolrl.errors import ConfigError
from toolrl.types import Message, ToolCall

# Those without marks of their own come last: they would take another dialect's JSON for theirs.
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *JSON_DIALECTS,
        *VALUE_TAG_DIALECTS,
        GemmaDialect(),
        FunctionGemmaDialect(),
        HarmonyDialect(),
        AtemDialect(),
        MistralDialect(),
        MistralNamedDialect(),
        DeepSeekDialect(),
        DeepSeek31Dialect(),
        KimiDialect(),
        LfmDialect(),
        OlmoDialect(),
        PythonicDialect(),
        LlamaJsonDialect(),
        XlamDialect(),
        TagDialect(),
        FencedDialect(),
    )
}
# A call that no template writes by itself.
PROBE = ToolCall("probe_tool", {"probe_key": "probe value"}, id="call00000")
# Some templates, such as Kimi's, write an id in place of a name.
PROBE_NAMED_BY_ID = replace(PROBE, id=f"functions.{PROBE.name}:0")
_PROBE_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": PROBE.name,
            "description": "Probe.",
            "parameters": {
                "type": "object",
                "properties": {"probe_key": {"type": "string", "description": "Probe."}},
                "required": ["probe_key"],
            },
        },
    }
]


def dialect_named(name: str) -> Dialect:
    """The dialect of that name.

    Raises:
        ConfigError: There is none; the message names near matches.
    """
    if name not in DIALECTS:
        near = difflib.get_close_matches(name, DIALECTS, n=3, cutoff=0.4) or DIALECTS
        raise ConfigError(f"no dialect {name!r}; did you mean {', '.join(near)}?")
    return DIALECTS[name]


def detect_dialect(written: str, eos: str = "", said: str = "") -> Dialect | None:
    """The dialect in which a template has written the call `PROBE`; None if none reads it.

    The turn is read up to EOS, or to another token that ends a turn in that dialect. Of two that read it, the one that
    writes it so is taken: the other is another form of the same family.

    Args:
        written: The turn.
        eos: The tokenizer's EOS.
        said: A text before the call. With one, only a dialect that writes both so is taken.
    """
    reading = []
    for dialect in DIALECTS.values():
        ends = [written.find(end) for end in (eos, *dialect.ends) if end and end in written]
        calls = dialect.parse(written[: min(ends, default=None)], _PROBE_TOOLS).tool_calls
        if [(call.name, call.arguments, call.error) for call in calls] == [(PROBE.name, PROBE.arguments, None)]:
            reading.append(dialect)
    probe = Message("assistant", said, (PROBE,))
    squeezed = "".join(written.split())
    exact = (dialect for dialect in reading if "".join(dialect.write(probe).split()) in squeezed)
    return next(exact, reading[0] if reading and not said else None)


__all__ = [
    "DIALECTS",
    "PROBE",
    "PROBE_NAMED_BY_ID",
    "Dialect",
    "FencedDialect",
    "HermesDialect",
    "TagDialect",
    "detect_dialect",
    "dialect_named",
]
