"""How models write tool calls: parses text into a `Message`, and writes it back.

`DIALECTS` lists all dialects, in the order in which a template is matched with them. There is one module per form:

- `json_blocks`, `argument_tags`: JSON, or a tag for each argument, between marks; a family is an entry in a table.
- `sections`, `channels`, `pythonic`, `gemma`, `bare_json`, `research`: a class for each family.

To add a dialect, add an entry to one of the two tables, or subclass `Dialect` (`base`; `BlockDialect` for calls between
marks) with `read` and `write_calls` and list it below. Add the mark that starts its calls to `foreign.CALL_BEGINNINGS`,
and the dialect to docs/dialects.md; tests/chat then covers it. Shared by all dialects: `foreign` (calls in another
spelling), `json_text`, `python_text`, `values` (values without quotes), `scanning` (marks inside quoted strings).
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from toolrl.chat.dialects.argument_tags import ARGUMENT_TAG_DIALECTS
from toolrl.chat.dialects.bare_json import LlamaJsonDialect, XlamDialect
from toolrl.chat.dialects.base import Dialect, schemas_of
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

# Dialects without marks of their own come last: they would mistake another dialect's JSON for theirs.
DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        *JSON_DIALECTS,
        *ARGUMENT_TAG_DIALECTS,
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
# A call that no template contains.
PROBE = ToolCall("probe_tool", {"probe_key": "probe value"}, id="call00000")
# Some templates, such as Kimi's, write an id instead of a name.
PROBE_NAMED_BY_ID = replace(PROBE, id=f"functions.{PROBE.name}:0")


def dialect_named(name: str) -> Dialect:
    """The dialect with this name.

    Raises:
        ConfigError: No dialect has this name; the message lists similar ones.
    """
    if name not in DIALECTS:
        near = difflib.get_close_matches(name, DIALECTS, n=3, cutoff=0.4) or DIALECTS
        raise ConfigError(f"no dialect {name!r}; did you mean {', '.join(near)}?")
    return DIALECTS[name]


def reads_probe(dialect: Dialect, written: str, eos: str = "") -> bool:
    """Whether a dialect reads the call `PROBE` in a turn, up to EOS or another end of a turn in the dialect."""
    ends = [written.find(end) for end in (eos, *dialect.ends) if end and end in written]
    calls = dialect.parse(written[: min(ends, default=None)], schemas_of((PROBE,))).tool_calls
    return [(call.name, call.arguments, call.error) for call in calls] == [(PROBE.name, PROBE.arguments, None)]


def detect_dialect(written: str, eos: str = "", said: str = "") -> Dialect | None:
    """The dialect in which a template has written the call `PROBE`; None if none can read it.

    If several dialects can read it, the one that would write it the same way wins: the others are variants of the same
    family.

    Args:
        written: The turn.
        eos: The tokenizer's EOS.
        said: A text before the call. If there is one, only a dialect that writes both the same way counts.
    """
    reading = [dialect for dialect in DIALECTS.values() if reads_probe(dialect, written, eos)]
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
    "reads_probe",
]
