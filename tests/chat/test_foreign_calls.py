"""Promises about calls in another spelling: the error shows the right form, and mere text is an answer."""

from __future__ import annotations

import pytest

from toolrl import Message, ToolCall
from toolrl.chat.dialects import DIALECTS
from toolrl.chat.dialects.foreign import CALL_BEGINNINGS

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]},
        },
    }
    for name, key in (("search", "query"), ("python", "code"))
]
BARE = ("tags", "fenced", "llama3-json", "llama3-pythonic", "xlam")
MARKED = [name for name in DIALECTS if name not in BARE]
each = pytest.mark.parametrize("name", DIALECTS)
CALL = Message("assistant", "", (ToolCall("search", {"query": "how tall is it?"}),))
WRITTEN = {name: dialect.format(CALL, TOOLS) for name, dialect in DIALECTS.items()}
WRITTEN["harmony"] = f"<|start|>assistant{WRITTEN['harmony']}"
ATTEMPTS = {
    "JSON": '{"name": "search", "arguments": {"query": "x"}}',
    "JSON with parameters": '{"name": "search", "parameters": {"query": "x"}}',
    "JSON of an API": '{"type": "function", "function": {"name": "search", "arguments": "{}"}}',
    "JSON of an API's message": '{"tool_calls": [{"id": "1", "function": {"name": "search", "arguments": "{}"}}]}',
    "JSON keyed by the tool": '{"search": {"query": "x"}}',
    "JSON of Cohere": '[{"tool_name": "search", "parameters": {"query": "x"}}]',
    "JSON of an agent": '{"action": "search", "action_input": "x"}',
    "JSON in a fence": '```json\n{"name": "search", "arguments": {"query": "x"}}\n```',
    "JSON in a fence without a label": '```\n[{"name": "search", "arguments": {"query": "x"}}]\n```',
    "JSON in a fence of a call": '```tool_call\n{"name": "search", "arguments": {"query": "x"}}\n```',
    "JSON over lines": '{\n  "name": "search",\n  "arguments": {\n    "query": "x"\n  }\n}',
    "a list of Python": '[search(query="x")]',
    "Python": 'search(query="x")',
    "Python without names": 'search("x")',
    "Python in a fence": "```tool_code\nsearch(query='x')\n```",
    "a tag": "<search>x</search>",
    "JSON of a thinking agent": '{"thought": "x", "action": {"name": "search", "args": {"query": "x"}}}',
    "JSON without its end": '{"name": "search", "arguments": {"query": "x"',
    "a dict of Python": "{'name': 'search', 'arguments': {'query': \"how's that?\"}}",
    "a list of dicts": "[{'name': 'search', 'arguments': {'query': 'x'}}]",
    "JSON in a tag": '<tools>\n{"name": "search", "arguments": {"query": "x"}}\n</tools>',
    "a tag that is whole": '<search query="x"/>',
    "ReAct in one line": "Thought: I look.\nAction: search[x]",
    "ReAct": "Thought: I look.\nAction: search\nAction Input: x",
}
BEHIND_WORDS = [
    '{"name": "search", "arguments": {"query": "x"}}',
    "`{'name': 'search', 'arguments': {'query': 'x'}}`",
    '<function>{"name": "search", "arguments": {"query": "x"}}</function>',
    '[search(query="x"), python(code="1")]',
    'search(query="x")',
    "`search(query='x')`",
]
MENTIONED = [
    "It is 330 m tall.",
    "<answer>330</answer>",
    'The JSON is {"name": "Ada", "arguments": {"a": 1}}.',
    '{"name": "Ada", "age": 36}',
    '[{"name": "search"}, {"name": "other"}]',
    '<answer>{"name": "search", "arguments": {"query": "x"}}</answer>',
    'A call is written {"name": "search", "arguments": {"query": "x"}} there.',
    'In a call\n{"name": "search", "arguments": {"query": "x"}} has two keys.',
    '<answer>{"name": "search", "arguments": {"query": "x"</answer>',
    "hits = search(query='x')",
    "print(search(query='x'))",
    "It is written `search(...)`, with a `query=`.",
    "<answer>search(query='x')</answer>",
    "You call it as search(query='x') and read on.",
    "The model wrote `<tool_code>` and search.",
    "```python\nprint(1)\n```",
    "Run this:\n\n```python\ndef f(x):\n    return x\n```\n\nIt gives 4.",
    "```bash\nls\n```",
    "[1, 2, 3]",
    "[O(n)] is its complexity",
    "search",
    "Search: the answer is 4. Action: none.",
    "I had to search twice.\n- python\n- search",
    "f(x=1)",
    "print(x=1)",
    "<b>bold</b>",
    "import functools\nfunctools.reduce(f, [1])",
]
# Sentences that mention marks of other families.
SPOKEN_OF = [
    "Qwen writes <tool_call> tags to search the web, in pairs.",
    "A turn of Mistral's has [TOOL_CALLS] in it.",
    "Use `<|python_tag|>` for code.",
    "Close <function_calls></function_calls> properly.",
    "What does <invoke name=...> mean?",
]


@each
@pytest.mark.parametrize("before", ["", "I look it up.\n"])
def test_a_call_in_the_marks_of_another_family_is_malformed_or_read(name: str, before: str) -> None:
    for other in MARKED:
        parsed = DIALECTS[name].parse(before + WRITTEN[other], TOOLS)
        assert parsed.tool_calls, other
        for call in parsed.tool_calls:
            if call.error is None:
                assert (call.name, call.arguments) == ("search", {"query": "how tall is it?"})
            else:
                assert DIALECTS[name].form in call.error


@each
@pytest.mark.parametrize("before", ["", "I will look this up for you:\n\n"])
def test_a_call_without_marks_is_malformed_and_the_error_shows_the_form(name: str, before: str) -> None:
    for kind, attempt in ATTEMPTS.items():
        if before and kind == "Python without names":
            continue  # after a sentence it is code
        parsed = DIALECTS[name].parse(before + attempt, TOOLS)
        assert len(parsed.tool_calls) == 1, (kind, parsed)
        if parsed.tool_calls[0].error is None:
            assert name in BARE
            assert parsed.tool_calls[0].name == "search"
        else:
            assert DIALECTS[name].form in parsed.tool_calls[0].error
            assert name in BARE or kind.startswith("ReAct") or parsed.content.strip() == before.strip(), kind


@pytest.mark.parametrize("attempt", BEHIND_WORDS)
def test_a_call_after_words_at_the_end_of_a_turn_is_not_an_answer(attempt: str) -> None:
    for name, dialect in DIALECTS.items():
        (refused,) = dialect.parse(f"I look it up: {attempt}", TOOLS).tool_calls
        assert name in ("llama3-json", "xlam") or str(refused.error).endswith(dialect.form), name


@each
def test_text_that_shows_something_like_a_call_is_the_answer(name: str) -> None:
    for text in MENTIONED:
        if name == "fenced" and text.count("```python"):
            continue  # that is a call in this dialect
        if name in ("llama3-json", "xlam") and '"search"' in text:
            continue  # calls have no marks in this dialect
        parsed = DIALECTS[name].parse(text, TOOLS)
        assert (parsed.content, parsed.tool_calls) == (text, ())


@pytest.mark.parametrize("text", SPOKEN_OF)
@pytest.mark.parametrize("name", ["lfm2", "gemma4", "kimi-k2", "llama3-json", "harmony", "cohere", "tags"])
def test_a_mark_of_another_family_in_a_sentence_is_text(name: str, text: str) -> None:
    parsed = DIALECTS[name].parse(text, TOOLS)
    assert (parsed.content, parsed.tool_calls) == (text, ())


def test_a_broken_call_in_other_marks_is_not_an_answer() -> None:
    for text in (
        "<|tool_call_start|>[search(query=",
        '<tool_call>\n{"name": "search", "argum',
        "[TOOL_CALLS]search[ARGS]{",
        "<｜DSML｜function_calls>",
        "Look: <tool_call>search",
    ):
        for name in DIALECTS:
            parsed = DIALECTS[name].parse(text, TOOLS)
            assert [call.error is not None for call in parsed.tool_calls] == [True], (name, text)


def test_json_between_the_marks_of_python_is_malformed() -> None:
    call = '{"name": "search", "parameters": {"query": "x"}}'
    for text in (f"<|python_start|>{call}<|python_end|>", call, f"<|python_tag|>{call}"):
        (refused,) = DIALECTS["llama3-pythonic"].parse(text, TOOLS).tool_calls
        assert "write [TOOL(PARAMETER=VALUE)]" in str(refused.error)


def test_without_schemas_only_marks_identify_a_call() -> None:
    assert DIALECTS["hermes"].parse(ATTEMPTS["JSON"]).content == ATTEMPTS["JSON"]
    assert DIALECTS["hermes"].parse('[TOOL_CALLS][{"name": "f"}]').tool_calls


def test_the_mark_of_every_dialect_is_known_to_the_others() -> None:
    for name in MARKED:
        if name != "harmony":  # a header marks its calls
            assert any(mark in WRITTEN[name] for mark in CALL_BEGINNINGS), name
