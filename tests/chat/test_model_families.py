"""Promises about families: their calls are read, and a template in their form is recognised by its probe."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.chat.families import CONTROL
from toolrl import ConfigError, Message, Renderer, ToolCall
from toolrl.chat.dialects import DIALECTS, dialect_named

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
    for name in ("forecast", "history")
]
BERN, TWO = ("forecast", {"city": "Bern", "days": 2}), ("history", {"city": "Genf"})
# Our own sentences, in the forms that the parsers of vLLM and SGLang accept.
TURNS: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    (
        "deepseek-v3.2",
        '</think>Rain?\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="forecast">\n'
        '<｜DSML｜parameter name="city" string="true">Bern</｜DSML｜parameter>\n'
        '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
        '<｜DSML｜invoke name="history">\n<｜DSML｜parameter name="city" string="true">Genf</｜DSML｜parameter>\n'
        "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "Rain?",
        [BERN, TWO],
    ),
    (
        "minimax-m2",
        'Rain?\n<minimax:tool_call>\n<invoke name="forecast">\n<parameter name="city">Bern</parameter>\n'
        '<parameter name="days">2</parameter>\n</invoke>\n'
        '<invoke name="history"><parameter name="city">Genf</parameter></invoke></minimax:tool_call>',
        "Rain?",
        [BERN, TWO],
    ),
    (
        "seed-oss",
        "<seed:think>Which days?</seed:think>Rain?\n<seed:tool_call>\n<function=forecast>\n"
        "<parameter=city>Bern</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n</seed:tool_call>",
        "Rain?",
        [BERN],
    ),
    (
        "step3",
        'Rain?<｜tool_calls_begin｜>\n<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="forecast">\n'
        '<steptml:parameter name="city">Bern</steptml:parameter>\n'
        '<steptml:parameter name="days">2</steptml:parameter>\n</steptml:invoke><｜tool_call_end｜>\n'
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="history">'
        '<steptml:parameter name="city">Genf</steptml:parameter></steptml:invoke><｜tool_call_end｜>\n'
        "<｜tool_calls_end｜>",
        "Rain?",
        [BERN, TWO],
    ),
    (
        "granite3",
        'Rain? <|tool_call|>[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}, '
        '{"name": "history", "arguments": {"city": "Genf"}}]',
        "Rain?",
        [BERN, TWO],
    ),
    (
        "granite3",
        'Rain?\n<tool_call> [{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}]\nOr snow?',
        "Rain?\n\nOr snow?",
        [BERN],
    ),
    (
        "internlm2",
        'Rain?<|action_start|><|plugin|>\n{"name": "forecast", "parameters": {"city": "Bern", "days": 2}}'
        "<|action_end|>",
        "Rain?",
        [BERN],
    ),
    (
        "internlm2",
        '<|action_start|> <|plugin|>\n{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}<|action_end|>\n',
        "",
        [BERN],
    ),
    (
        "hunyuan",
        '<think>\nhm\n</think>\n<tool_calls>[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}},'
        '{"name": "history", "arguments": {"city": "Genf"}}]</tool_calls>',
        "",
        [BERN, TWO],
    ),
    (
        "xlam",
        '[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}, '
        '{"name": "history", "arguments": {"city": "Genf"}}]',
        "",
        [BERN, TWO],
    ),
    (
        "xlam",
        'Rain?\n```json\n[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}]\n```',
        "Rain?",
        [BERN],
    ),
    (
        "ernie4.5",
        "<think>\nhm\n</think>\n\n<response>\nRain?\n</response>\n\n<tool_call>\n"
        '{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}\n</tool_call>\n',
        "Rain?",
        [BERN],
    ),
    (
        "kimi-k2",
        "Rain?<|tool_calls_section_begin|><|tool_call_begin|>functions.forecast:3<|tool_call_argument_begin|>"
        '{"city": "Bern", "days": 2}<|tool_call_end|><|tool_call_begin|>history:4<|tool_call_argument_begin|>'
        ' {"city": "Genf"} <|tool_call_end|><|tool_calls_section_end|>',
        "Rain?",
        [BERN, TWO],
    ),
    (
        "cohere",
        "<|START_THINKING|>hm<|END_THINKING|><|START_ACTION|>[\n"
        '    {"tool_call_id": "0", "tool_name": "forecast", "parameters": {"city": "Bern", "days": 2}},\n'
        '    {"tool_call_id": "1", "tool_name": "history", "parameters": {"city": "Genf"}}\n]<|END_ACTION|>',
        "",
        [BERN, TWO],
    ),
    ("cohere", "<|START_RESPONSE|>It rains.<|END_RESPONSE|>", "It rains.", []),
    (
        "cohere",
        "<|START_RESPONSE|>It <co>rains</co: 0:[1,2],1:[3]> in <co>Bern</co: 1:[0]>.<|END_RESPONSE|>",
        "It rains in Bern.",
        [],
    ),
    ("command-r", "Grounded answer: It <co: 0>rains</co: 0,1>.", "Grounded answer: It rains.", []),
    ("cohere", "<|START_THINKING|>hm<|END_THINKING|><|START_TEXT|>It rains.<|END_TEXT|>", "It rains.", []),
    (
        "command-r",
        'Action: ```json\n[\n    {\n        "tool_name": "forecast",\n'
        '        "parameters": {"city": "Bern", "days": 2}\n    }\n]```',
        "",
        [BERN],
    ),
    (
        "olmo3",
        "Rain?\n<function_calls>\nforecast(city='Bern', days=2)\nhistory(city=\"Genf\")\n</function_calls>",
        "Rain?",
        [BERN, TWO],
    ),
    ("olmo3", "<function_calls>[forecast(city='Bern', days=2)]</function_calls>", "", [BERN]),
    ("phi4", 'functools[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}]', "", [BERN]),
    ("phi4", 'Rain? functools [ {"name": "history", "parameters": {"city": "Genf"}} ]', "Rain?", [TWO]),
    (
        "phi4-functools",
        '<|tool_call|>[{"name": "forecast", "arguments": {"city": "Bern", "days": 2}}]<|/tool_call|>',
        "",
        [BERN],
    ),
    (
        "lfm2",
        "<|tool_call_start|>[forecast(city='Bern', days=2), history(city='Genf')]<|tool_call_end|>Rain?",
        "Rain?",
        [BERN, TWO],
    ),
    ("nemotron-json", '<TOOLCALL>[{"name": "history", "arguments": {"city": "Genf"}}]</TOOLCALL>', "", [TWO]),
    (
        "longcat",
        '<longcat_tool_call>\n{"name": "history", "arguments": {"city": "Genf"}}\n</longcat_tool_call>',
        "",
        [TWO],
    ),
]


@pytest.mark.parametrize(("name", "turn", "content", "calls"), TURNS)
def test_what_a_family_writes_is_read(
    name: str, turn: str, content: str, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    parsed = dialect_named(name).parse(turn, TOOLS)
    assert [(call.name, dict(call.arguments)) for call in parsed.tool_calls if call.error is None] == calls
    assert len(parsed.tool_calls) == len(calls)
    assert parsed.content == content
    if "hm" in turn:
        assert parsed.thinking == "hm"


# ---- templates: one in the form of each family, made with its writer

TEMPLATE = """
{%- for message in messages %}
{{- "<|im_start|>" + message.role + "\\n" }}
{%- if message.role == "assistant" and message.tool_calls %}{{ write(message) }}
{%- else %}{{ message.content }}{% endif %}{{ "<|im_end|>\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}{% endif %}"""


@cache
def tokenizer_of(name: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({character: id for id, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    marks = {mark for mark in DIALECTS[name].marks if CONTROL.fullmatch(mark)} - {"<|im_end|>"}
    backend.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in sorted(marks)])
    backend.add_special_tokens([AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>", "<|pad|>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>", name_or_path=name
    )


def template_of(name: str) -> str:
    """Jinja that writes calls in the form of a family."""
    one, first, last, between = CALLS_IN_JINJA[name]
    calls = f"{{% for c in message.tool_calls %}}{one}{{% if not loop.last %}}{between}{{% endif %}}{{% endfor %}}"
    return TEMPLATE.replace("{{ write(message) }}", f"{first}{calls}{last}")


_JSON = '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments|tojson }}}'
_XML = "{% for k, v in c.function.arguments.items() %}%s{% endfor %}"
_VALUE = "{{ v if v is string else v|tojson }}"
CALLS_IN_JINJA = {
    "granite3": (_JSON, "<|tool_call|>[", "]", ", "),
    "phi4-functools": (_JSON, "functools[", "]", ", "),
    "internlm2": (
        "<|action_start|><|plugin|>\n" + _JSON.replace('arguments"', 'parameters"') + "<|action_end|>",
        "",
        "",
        "",
    ),
    "hunyuan": (_JSON, "<tool_calls>[", "]</tool_calls>", ", "),
    "xlam": (_JSON, "[", "]", ", "),
    "ernie4.5": (
        "<tool_call>\n" + _JSON + "\n</tool_call>\n",
        "{% if message.content %}<response>\n{{ message.content }}\n</response>\n{% endif %}\n",
        "",
        "\n",
    ),
    "cohere": (
        '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "{{ c.function.name }}", '
        '"parameters": {{ c.function.arguments|tojson }}}',
        "<|START_ACTION|>[\n",
        "\n]<|END_ACTION|>",
        ",\n",
    ),
    "seed-oss": (
        "<seed:tool_call>\n<function={{ c.function.name }}>\n"
        + _XML.replace("%s", "<parameter={{ k }}>" + _VALUE + "</parameter>\n")
        + "</function>\n</seed:tool_call>",
        "",
        "",
        "\n",
    ),
    "minimax-m2": (
        '<invoke name="{{ c.function.name }}">\n'
        + _XML.replace("%s", '<parameter name="{{ k }}">' + _VALUE + "</parameter>\n")
        + "</invoke>",
        "<minimax:tool_call>\n",
        "\n</minimax:tool_call>",
        "\n",
    ),
    "deepseek-v3.2": (
        '<｜DSML｜invoke name="{{ c.function.name }}">\n'
        + _XML.replace(
            "%s",
            '<｜DSML｜parameter name="{{ k }}" string="{{ "true" if v is string else "false" }}">'
            + _VALUE
            + "</｜DSML｜parameter>\n",
        )
        + "</｜DSML｜invoke>",
        "\n\n<｜DSML｜function_calls>\n",
        "\n</｜DSML｜function_calls>",
        "\n",
    ),
    "step3": (
        '<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{{ c.function.name }}">\n'
        + _XML.replace("%s", '<steptml:parameter name="{{ k }}">' + _VALUE + "</steptml:parameter>\n")
        + "</steptml:invoke><｜tool_call_end｜>",
        "<｜tool_calls_begin｜>\n",
        "\n<｜tool_calls_end｜>",
        "\n",
    ),
    "olmo3": (
        "{{ c.function.name }}("
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v|tojson }}{{ ', ' if not loop.last }}{% endfor %})",
        "<function_calls>\n",
        "\n</function_calls>",
        "\n",
    ),
    "kimi-k2": (
        "<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments|tojson }}<|tool_call_end|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "",
    ),
}


@pytest.mark.parametrize("name", CALLS_IN_JINJA)
def test_a_template_in_a_familys_form_is_recognised_and_proven_prefix_stable(name: str) -> None:
    renderer = Renderer(
        tokenizer_of(name), chat_template=template_of(name), dialect=name if name == "kimi-k2" else None
    )
    assert renderer.dialect.name == name
    hostile = f'it\'s "5" \\ {renderer.dialect.marks[0] if renderer.dialect.marks else "["}\n <|im_end|> </think> null'
    for texts in (["Bern"], ["Bern", "7"], [hostile], [hostile, ""]):
        calls = tuple(
            ToolCall("forecast", {"city": text, "days": number}, id=f"functions.forecast:{number}")
            for number, text in enumerate(texts)
        )
        turn = renderer.assistant_ids(Message("assistant", "", calls), TOOLS)
        assert renderer.stop_token_ids.count(turn[-1]) == 1
        assert not set(turn[:-1]) & set(renderer.stop_token_ids)
        read = renderer.parse(turn, TOOLS)
        assert [(call.name, call.arguments, call.error) for call in read.tool_calls] == [
            (call.name, call.arguments, None) for call in calls
        ]


# Names of the parsers in vLLM and SGLang.
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("qwen3_coder", "qwen3-coder"),
        ("kimi_k2", "kimi-k2"),
        ("deepseek_v32", "deepseek-v3.2"),
        ("deepseekv31", "deepseek-v3.1"),
        ("minimax_m2", "minimax-m2"),
        ("seed_oss", "seed-oss"),
        ("llama3_json", "llama3-json"),
        ("granite", "granite3"),
        ("internlm", "internlm2"),
        ("hunyuan_a13b", "hunyuan"),
        ("ernie45", "ernie4.5"),
        ("phi4_mini_json", "phi4"),
        ("glm45", "glm4"),
        ("cohere_command", "cohere"),
        ("Hermes", "hermes"),
        ("xLAM", "xlam"),
        ("olmo", "olmo3"),
        ("step-3", "step3"),
    ],
)
def test_another_librarys_name_for_a_dialect_suggests_ours(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError, match="did you mean") as caught:
        dialect_named(wrong)
    assert right in str(caught.value)


def test_the_documentation_lists_every_dialect() -> None:
    text = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")
    assert [name for name in DIALECTS if f"`{name}`" not in text] == []
