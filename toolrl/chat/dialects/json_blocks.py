"""Calls as JSON between marks: one class, and a table of the families that write this form."""

from __future__ import annotations

import re
from dataclasses import replace

from toolrl.chat.dialects.base import BlockDialect
from toolrl.chat.dialects.json_text import json_call, json_calls, load_json, load_json_at, write_json
from toolrl.chat.dialects.scanning import Scanner
from toolrl.chat.dialects.values import Schemas
from toolrl.types import Message, ToolCall

# Citations, which vLLM and SGLang remove too: `<co>330 m</co: 0:[1,2]>`, and Command R's `<co: 0>330 m</co: 0>`.
_CITATION = re.compile(r"</?co(?::[\s\d:,\[\]]*)?>")


class JsonDialect(BlockDialect):
    """JSON between two marks: an object for each call, or one list of all calls.

    Without a closing mark, the end of the JSON ends the block.
    """

    def __init__(
        self,
        name: str,
        block: tuple[str, str],
        *,
        listed: bool = False,
        keys: tuple[str, str] = ("name", "arguments"),
        opening: str = "",
        also: tuple[tuple[str, str], ...] = (),
        also_marks: tuple[str, ...] = (),
        other_arguments: str = "",
        id_key: str = "id",
        numbered: bool = False,
        spaces: str = "",
        joint: str = "",
        ends: tuple[str, ...] = (),
        wrapped: tuple[tuple[str, str], ...] = (),
        cites: bool = False,
        thinking: tuple[str, str] = ("<think>", "</think>"),
        thought_form: str = "{0}\n{2}\n{1}\n\n",
    ):
        """Describe a family; see `Dialect` for the other arguments.

        Args:
            name: Of the dialect.
            block: The marks, as they are written.
            listed: Whether all calls are in one list; otherwise each is an object in its own block.
            keys: The keys of a call's name and arguments.
            opening: Pattern of the opening mark, if it is more than that text.
            also: Patterns of further openings that are read, each with its closing mark.
            also_marks: Tokens that the marks consist of.
            other_arguments: Another key that is read as the arguments.
            id_key: The key of a call's id.
            numbered: Whether a call is written with its number in the turn as its id.
            spaces: What is written between the marks and the JSON.
            wrapped: Pairs of marks around the text; the first pair is written.
            cites: Whether parts of the text are in citation tags, which are removed.
        """
        call = f'{{"{keys[0]}": "TOOL", "{keys[1]}": {{"PARAMETER": VALUE}}}}'
        self.name, self.block, self.listed, self.keys, self.joint, self.ends = name, block, listed, keys, joint, ends
        self.form = f"{block[0]}{spaces}{f'[{call}]' if listed else call}{spaces}{block[1]}"
        self.openings = ((opening or re.escape(block[0]), block[1]), *also)
        self.thinking, self.thought_form = thinking, thought_form
        marks = (*block, *(mark for pair in wrapped for mark in pair), *also_marks)
        self.marks = tuple(mark for mark in marks if mark.startswith("<"))
        self._other_arguments, self._id_key, self._numbered = other_arguments, id_key, numbered
        self._spaces, self._wrapped, self._cites = spaces, wrapped, cites

    def read(self, text: str, tools: Schemas) -> tuple[str, list[ToolCall]]:
        """Read the blocks, and the text without the marks around it."""
        content, calls = super().read(text, tools)
        for mark in (mark for pair in self._wrapped for mark in pair):
            content = content.replace(mark, "")
        return _CITATION.sub("", content) if self._cites else content, calls

    def read_at(
        self, text: str, opening: re.Match[str], closing: str, scanner: Scanner, tools: Schemas
    ) -> tuple[list[ToolCall], int]:
        """Read a block; without a closing mark it ends with its JSON."""
        if closing:
            return super().read_at(text, opening, closing, scanner, tools)
        try:
            value, end = load_json_at(text, opening.end())
        except (ValueError, RecursionError) as error:
            following = scanner.find(opening.end(), (opening.group(),))
            end = following[0] if following else len(text)
            raw = text[opening.start() : end]
            return [ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)], end
        return self._calls(value, text[opening.start() : end]), end

    def read_block(self, body: str, raw: str, tools: Schemas) -> list[ToolCall]:
        """Read an object or a list of objects; a broken list is one broken call."""
        try:
            value = load_json(body)
        except (ValueError, RecursionError) as error:
            return [ToolCall("", error=f"the tool call is not valid JSON: {error}", raw=raw)]
        if not self.listed and not self._other_arguments:
            return [json_call(value, raw, self.keys)]
        return self._calls(value, raw)

    def _calls(self, value: object, raw: str) -> list[ToolCall]:
        if self._other_arguments:
            values = value if isinstance(value, list) else [value]
            value = [
                {self.keys[1] if key == self._other_arguments else key: item for key, item in one.items()}
                if isinstance(one, dict) and self.keys[1] not in one
                else one
                for one in values
            ]
        return json_calls(value, raw, self.keys, self._id_key)

    def write(self, message: Message, tools: Schemas = ()) -> str:
        """Write the text between its marks, then the calls."""
        if message.content and self._wrapped:
            before, after = self._wrapped[0]
            message = replace(message, content=f"{before}{message.content}{after}")
        return super().write(message, tools)

    def write_calls(self, calls: list[ToolCall], tools: Schemas) -> str:
        """Write one object, or a list."""
        values = [
            {
                **({self._id_key: call.id or str(index)} if self._numbered else {}),
                self.keys[0]: call.name,
                self.keys[1]: dict(call.arguments),
            }
            for index, call in enumerate(calls)
        ]
        text = write_json(values if self.listed else values[0], self.hidden)
        return f"{self.block[0]}{self._spaces}{text}{self._spaces}{self.block[1]}"


class HermesDialect(JsonDialect):
    """JSON between `<tool_call>` tags, as Hermes, Qwen2.5 and Qwen3, Granite 4, SmolLM3 and MiMo write it.

    Source: the tool section of the Qwen3 chat template (trl/chat_templates/qwen3.jinja).
    """

    def __init__(self) -> None:
        super().__init__("hermes", ("<tool_call>", "</tool_call>"), spaces="\n", joint="\n")

    @property
    def instruction(self) -> str:
        """The words of Qwen2.5's template."""
        return (
            "For each function call, return a json object with function name and arguments within "
            f"<tool_call></tool_call> XML tags:\n<tool_call>\n{_HERMES_CALL}\n</tool_call>"
        )


_HERMES_CALL = '{"name": <function-name>, "arguments": <args-json-object>}'
_FUNCTOOLS = r"functools(?=\s*\[\s*\{)"

# Sources: each family's template, if vLLM has one (examples/tool_chat_template_*.jinja), and what the parsers of
# vLLM 0.32 (vllm/tool_parsers, vllm/parser) and SGLang 0.5 (srt/function_call) read.
JSON_DIALECTS = (
    HermesDialect(),
    # The model card of microsoft/Phi-4-mini-instruct; vLLM's phi4mini_tool_parser.py reads `functools`, which the
    # model also writes.
    JsonDialect(
        "phi4",
        ("<|tool_call|>", "<|/tool_call|>"),
        listed=True,
        also=((_FUNCTOOLS, ""),),
        other_arguments="parameters",
        ends=("<|end|>",),
    ),
    # The form that vLLM's tool_chat_template_phi4_mini.jinja asks for.
    JsonDialect(
        "phi4-functools",
        ("functools", ""),
        listed=True,
        opening=_FUNCTOOLS,
        also=((r"<\|tool_call\|>", "<|/tool_call|>"),),
        other_arguments="parameters",
        ends=("<|end|>",),
    ),
    # vllm/parser/granite.py: 3.0 writes the first mark, 3.1 and later the second. Granite 4 writes Hermes.
    JsonDialect(
        "granite3",
        ("<|tool_call|>", ""),
        listed=True,
        also=((r"<tool_call>(?=\s*\[)", ""),),
        ends=("<|end_of_text|>",),
    ),
    # internlm2_tool_parser.py; vLLM's template for it writes "arguments", the model's own is "parameters".
    JsonDialect(
        "internlm2",
        ("<|action_start|><|plugin|>", "<|action_end|>"),
        opening=r"<\|action_start\|>\s*<\|plugin\|>",
        also_marks=("<|action_start|>", "<|plugin|>"),
        keys=("name", "parameters"),
        other_arguments="arguments",
        spaces="\n",
        ends=("<|im_end|>",),
    ),
    # hunyuan_a13b_tool_parser.py, tool_chat_template_hunyuan_a13b.jinja; jamba_tool_parser.py reads the same.
    JsonDialect("hunyuan", ("<tool_calls>", "</tool_calls>"), listed=True, ends=("<|eos|>", "<|im_end|>")),
    # ernie45_tool_parser.py: calls as in Hermes, and marks around the text.
    JsonDialect(
        "ernie4.5",
        ("<tool_call>", "</tool_call>"),
        spaces="\n",
        joint="\n",
        wrapped=(("<response>", "</response>"),),
    ),
    # cohere_command4_detector.py, vllm/parser/cohere_command.py: Command R7B, Command A and related models.
    JsonDialect(
        "cohere",
        ("<|START_ACTION|>", "<|END_ACTION|>"),
        listed=True,
        keys=("tool_name", "parameters"),
        id_key="tool_call_id",
        numbered=True,
        wrapped=(("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>")),
        cites=True,
        ends=("<|END_OF_TURN_TOKEN|>",),
        thinking=("<|START_THINKING|>", "<|END_THINKING|>"),
        thought_form="{0}{2}{1}",
    ),
    # The tool_use template of c4ai-command-r-plus (vLLM's examples/tool_template_cohere.jinja).
    JsonDialect(
        "command-r",
        ("Action: ```json", "```"),
        listed=True,
        opening=r"Action:\s*```json",
        keys=("tool_name", "parameters"),
        spaces="\n",
        joint="\n",
        cites=True,
        ends=("<|END_OF_TURN_TOKEN|>",),
    ),
    # nvidia/NVIDIA-Nemotron-Nano-9B-v2 (its own parser and template).
    JsonDialect("nemotron-json", ("<TOOLCALL>", "</TOOLCALL>"), listed=True, ends=("<SPECIAL_12>",)),
    # longcat_tool_parser.py.
    JsonDialect(
        "longcat", ("<longcat_tool_call>", "</longcat_tool_call>"), spaces="\n", joint="\n", ends=("</longcat_s>",)
    ),
)
