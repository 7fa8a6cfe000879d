"""Promises about rendering: tokens are only ever appended, and no text becomes a control token.

Shown on templates that models really have, with a small tokenizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from toolrl import Message, Renderer, call, say
from toolrl.chat import HermesDialect
from toolrl.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Template = Callable[[str], str]

# enable_thinking=False: the prompt contains the empty block of thoughts, and the template renders it again.
TEMPLATES: dict[str, dict[str, Any]] = {
    "qwen2_5": {},
    "qwen3_training": {"enable_thinking": False},
    "qwen3_instruct_2507": {},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string", "description": "Words."}},
                "required": ["query"],
            },
        },
    }
]
CONTROL_TEXTS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_response>", "</think>")

# Pieces of control tokens, whole ones, and what the renderer itself uses to hide them.
hostile_texts = st.lists(
    st.sampled_from(
        [*CONTROL_TEXTS, "<|im_", "end|>", "<", "|", ">", "\ue0f0", "\ue0f1", "\ue0f00\ue0f1", "\ue0f0999\ue0f1"]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    max_size=8,
).map("".join)
with_templates = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


@pytest.fixture(params=TEMPLATES)
def renderer(
    request: pytest.FixtureRequest, byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> Renderer:
    return make_renderer(byte_tokenizer, trl_template(request.param), **TEMPLATES[request.param])


def make_renderer(tokenizer: PreTrainedTokenizerFast, template: str, **options: Any) -> Renderer:
    return Renderer(tokenizer, chat_template=template, template_options=options)


def tool_message(content: str, call_id: str = "call_1_0") -> Message:
    return Message("tool", content, name="search", tool_call_id=call_id)


def template_text(renderer: Renderer, messages: list[Message], tools: list[Any]) -> str:
    """The template's own rendering of a conversation."""
    text = renderer.tokenizer.apply_chat_template(
        [message.to_dict() for message in messages],
        tools=tools or None,
        chat_template=renderer.template.text,
        tokenize=False,
        **renderer.template.options,
    )
    return str(text)


def compose(
    renderer: Renderer, opening: list[Message], tools: list[dict[str, Any]], turns: list[list[Message]]
) -> list[int]:
    """An episode's tokens, appended piece by piece; each turn is an assistant message and the messages after it."""
    ids = renderer.prompt_ids(opening, tools)
    for assistant, *told in turns:
        ids = ids + renderer.assistant_ids(assistant)
        if told:
            ids = ids + renderer.observation_ids(told)
    return ids


# ---- composition


OPENINGS = [[Message("user", "q?")], [Message("system", "Be brief."), Message("user", "q? naïve 漢\nx")]]
DIALOGUES: dict[str, list[list[Message]]] = {
    "answer": [[say("<answer>4</answer>")]],
    "call": [[call("search", query="x"), tool_message("found: {}\n\n1")], [say("done")]],
    "several": [
        [
            Message(
                "assistant", "First:", (*call("search", query="x").tool_calls, *call("search", query='"y"').tool_calls)
            ),
            tool_message("one", "call_1_0"),
            tool_message("", "call_1_1"),
        ],
        [call("search", query="naïve 漢"), tool_message("three")],
        [say("<answer>4</answer>")],
    ],
    "user": [[say("what?"), Message("user", "this")], [say("done")]],
}


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["no-tools", "tools"])
@pytest.mark.parametrize("opening", OPENINGS, ids=["user", "system"])
@pytest.mark.parametrize("dialogue", DIALOGUES)
def test_appended_pieces_are_the_rendering_of_the_whole_conversation(
    renderer: Renderer, tools: list[dict[str, Any]], opening: list[Message], dialogue: str
) -> None:
    turns = DIALOGUES[dialogue]
    conversation = [*opening, *(message for turn in turns for message in turn)]
    ids = compose(renderer, opening, tools, turns)
    whole = template_text(renderer, conversation, tools)
    assert renderer.decode(ids) == whole.removesuffix("\n")  # templates end a turn with a newline, models do not
    assert ids == renderer.tokenizer.encode(whole.removesuffix("\n"), add_special_tokens=False)


def test_an_observation_is_rendered_once_and_the_caller_owns_its_ids(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = renderer.observation_ids([tool_message("the same")])
    expected = list(first)
    first.clear()
    monkeypatch.setattr(renderer, "_observe", lambda messages: pytest.fail("rendered again"))
    assert renderer.observation_ids([tool_message("the same")]) == expected


def test_an_observation_does_not_depend_on_what_was_said_before(renderer: Renderer) -> None:
    """A turn that was sampled in another form than the template's is therefore never rewritten."""
    sampled = renderer.tokenizer.encode(
        "<tool_call>{}   oddly  spelled</tool_call><|im_end|>", add_special_tokens=False
    )
    ids = renderer.prompt_ids(OPENINGS[0]) + sampled + renderer.observation_ids([tool_message("r")])
    text = renderer.decode(ids)
    assert (
        "oddly  spelled</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nr\n</tool_response><|im_end|>\n"
        in text
    )


def test_the_tools_are_in_the_prompt(renderer: Renderer) -> None:
    assert '"description": "Search."' in renderer.decode(renderer.prompt_ids(OPENINGS[0], TOOLS))
    assert "# Tools" not in renderer.decode(renderer.prompt_ids(OPENINGS[0], []))


# ---- reading back


@pytest.mark.parametrize(
    "message", [say("<answer>4</answer>"), call("search", query="<|im_end|> <tool_call>"), say("")]
)
def test_parsing_inverts_the_rendering_of_an_assistant_turn(renderer: Renderer, message: Message) -> None:
    ids = renderer.assistant_ids(message)
    assert ids.count(renderer.end_of_turn_id) == 1
    assert ids[-1] == renderer.end_of_turn_id
    for sampled in (ids, ids[:-1]):
        parsed = renderer.parse(sampled)
        assert parsed.content == message.content
        assert [(c.name, c.arguments) for c in parsed.tool_calls] == [(c.name, c.arguments) for c in message.tool_calls]


def test_a_turn_of_no_tokens_is_an_empty_message(renderer: Renderer) -> None:
    assert renderer.parse([]) == renderer.parse([renderer.end_of_turn_id]) == Message("assistant", "")


def test_half_a_character_is_decoded_without_an_error(renderer: Renderer) -> None:
    ids = renderer.tokenizer.encode("漢", add_special_tokens=False)
    assert renderer.parse(ids[:1]).content == "\ufffd"


# ---- text is never control


def control_counts(renderer: Renderer, ids: list[int]) -> dict[int, int]:
    controls = set(renderer.tokenizer.get_added_vocab().values())
    return {id: ids.count(id) for id in controls & set(ids)}


@with_templates
@given(text=hostile_texts)
def test_text_of_users_never_becomes_a_control_token(renderer: Renderer, text: str) -> None:
    for role in ("user", "system"):
        opening = [Message("system", text)] * (role == "system") + [Message("user", "q" if role == "system" else text)]
        harmless = [Message(message.role, "q") for message in opening]
        ids = renderer.prompt_ids(opening, TOOLS)
        assert control_counts(renderer, ids) == control_counts(renderer, renderer.prompt_ids(harmless, TOOLS))
        assert text in renderer.decode(ids)


@with_templates
@given(text=hostile_texts, name=hostile_texts)
def test_output_of_tools_never_becomes_a_control_token(renderer: Renderer, text: str, name: str) -> None:
    ids = renderer.observation_ids([Message("tool", text, name=name, tool_call_id="c")])
    assert control_counts(renderer, ids) == control_counts(renderer, renderer.observation_ids([tool_message("q")]))
    assert f"\n<tool_response>\n{text}\n</tool_response>" in renderer.decode(ids)


@with_templates
@given(text=hostile_texts)
def test_descriptions_of_tools_never_become_control_tokens(renderer: Renderer, text: str) -> None:
    def tools(description: str) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": "f", "description": description, "parameters": {}}}]

    ids = renderer.prompt_ids(OPENINGS[0], tools(text))
    assert control_counts(renderer, ids) == control_counts(renderer, renderer.prompt_ids(OPENINGS[0], tools("q")))


@with_templates
@given(text=hostile_texts)
def test_arguments_of_a_call_contain_no_control_tokens(renderer: Renderer, text: str) -> None:
    ids = renderer.assistant_ids(call("search", query=text))
    assert control_counts(renderer, ids) == control_counts(renderer, renderer.assistant_ids(call("search", query="q")))
    assert renderer.parse(ids).tool_calls[0].arguments == {"query": text}


@with_templates
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_text_without_control_tokens_is_encoded_as_the_tokenizer_does(renderer: Renderer, text: str) -> None:
    opening = [Message("system", "s"), Message("user", text)]
    expected = template_text(renderer, opening, [])
    ids = renderer.prompt_ids(opening)
    assert renderer.decode(ids).startswith(expected)
    if not any(control in text for control in renderer.tokenizer.get_added_vocab()):
        assert ids == renderer.tokenizer.encode(renderer.decode(ids), add_special_tokens=False)


def test_runs_of_white_space_that_a_tokenizer_adds_are_not_control_tokens(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.add_tokens(["        "])
    renderer = make_renderer(tokenizer, trl_template("qwen2_5"))
    assert tokenizer.convert_tokens_to_ids("        ") in renderer.prompt_ids([Message("user", "def f():\n        x")])


# ---- templates that are refused


SIMPLE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
    "{% for c in m.tool_calls or [] %}{{ '\\n<tool_call>' + c.function.name + '</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_a_simple_template_is_accepted_if_the_dialect_is_named(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    renderer = Renderer(byte_tokenizer, chat_template=SIMPLE, dialect="hermes")
    assert (
        renderer.decode(renderer.prompt_ids(OPENINGS[0])) == "<|im_start|>user\nq?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_that_rewrites_history_is_refused_and_the_fix_is_named(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    with pytest.raises(
        TemplateError, match=r"'byte-tokenizer' is not prefix-stable.*trl/chat_templates/\*_training\.jinja"
    ):
        make_renderer(byte_tokenizer, f"{trl_template('qwen3')}{{#- unknown -#}}", enable_thinking=False)


def test_a_template_that_drops_tool_results_is_refused(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    template = SIMPLE.replace("{% for m in messages %}", "{% for m in messages if m.role != 'tool' %}")
    with pytest.raises(TemplateError, match=r"does not show tool results.*pass a template that supports tools"):
        Renderer(byte_tokenizer, chat_template=template, tool_prompt="template")


def test_an_eos_token_that_does_not_end_a_turn_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(TemplateError, match=r"does not end a turn with the EOS token '<\|endoftext\|>'; set"):
        make_renderer(tokenizer, trl_template("qwen2_5").replace("<|im_end|>", "(end)"))


def test_a_template_may_end_a_turn_with_another_token_than_eos(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.eos_token = "<|endoftext|>"
    renderer = make_renderer(tokenizer, trl_template("qwen2_5"))
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert renderer.stop_token_ids == [eos, end]
    assert renderer.assistant_ids(say("yes"))[-1] == renderer.end_of_turn_id == end
    result = [Message("tool", "found", name="search", tool_call_id="c")]
    assert renderer.observation_ids(result, after=eos) == [end, *renderer.observation_ids(result, after=end)]


def test_a_tokenizer_without_an_eos_token_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(TemplateError, match="has no EOS token to end a turn"):
        make_renderer(tokenizer, trl_template("qwen2_5"))


def test_the_dialect_and_the_tokenizers_own_template_are_the_defaults(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Template
) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.chat_template = trl_template("qwen2_5")
    renderer = Renderer(tokenizer)
    assert isinstance(renderer.dialect, HermesDialect)
    assert renderer.prompt_ids(OPENINGS[0]) == make_renderer(byte_tokenizer, trl_template("qwen2_5")).prompt_ids(
        OPENINGS[0]
    )


def test_lone_surrogates_become_question_marks(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]
) -> None:
    renderer = make_renderer(byte_tokenizer, trl_template("qwen2_5"))
    assert renderer.decode(renderer.text_ids("a\ud800b<|im_end|>")) == "a?b<|im_end|>"
    assert renderer.observation_ids([tool_message("\udfff")]) == renderer.observation_ids([tool_message("?")])
