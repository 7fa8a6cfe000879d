"""Promises about models whose template knows no tools: the system message tells them, and tokens stay exact."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.chat.families import REFUSED, TEMPLATES, TOLD, tokenizer_of
from tests.chat.test_renderer import CONTROL_TEXTS, TOOLS, hostile_texts
from toolrl import ConfigError, Message, Renderer, ToolCall
from toolrl.chat import DIALECTS
from toolrl.chat.encoding import Encoder
from toolrl.chat.tool_prompt import ToolPrompt, example_call
from toolrl.chat.variants import named_template, plain_template
from toolrl.errors import TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CALL = ToolCall("search", {"query": "x y"}, id="c0")
any_examples = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)

names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
scalars = st.sampled_from(["string", "integer", "number", "boolean", "array", "object"])
parameters = st.fixed_dictionaries({"type": scalars, "description": hostile_texts}) | st.builds(
    lambda words: {"type": "string", "enum": words}, st.lists(names, min_size=1, max_size=3)
)


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    properties = draw(st.dictionaries(names, parameters, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    description = draw(hostile_texts)
    kind = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": draw(names), "description": description, "parameters": kind}}


@pytest.mark.parametrize("name", TOLD)
def test_a_template_without_tools_tells_of_them_in_the_system_message(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])
    assert (renderer.tool_prompt, renderer.dialect.name) == ("system", "hermes")
    assert "the system message shows the tools, which the chat template leaves out" in renderer.remark
    conversation = [Message("system", "Be brief."), Message("user", "q?")]
    ids = renderer.prompt_ids(conversation, TOOLS)
    assert all(text in renderer.decode(ids) for text in ("Be brief.", '"name": "search"', "<tool_call>", "q?"))
    for number in range(3):
        assistant = Message("assistant", "", (CALL,), thinking="so" if renderer.opened else "")
        told = [Message("tool", f"found {number}", name="search", tool_call_id="c0")]
        sampled = renderer.assistant_ids(assistant, TOOLS)
        read = renderer.parse(sampled, TOOLS, after_tools=number > 0).tool_calls
        assert [(call.name, call.arguments, call.error) for call in read] == [(CALL.name, CALL.arguments, None)]
        ids = ids + sampled + renderer.observation_ids(told, after=sampled[-1])
        conversation += [assistant, *told]
        assert renderer.decode(ids) == renderer.template.render(conversation, TOOLS, generate=True)
    assert renderer.decode(ids).count("found ") == 3


@pytest.mark.parametrize("name", TOLD)
def test_an_environment_without_tools_has_no_section_of_tools(name: str) -> None:
    renderer = Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])
    assert "# Tools" not in renderer.decode(renderer.prompt_ids([Message("user", "q?")]))


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_shows_no_texts_or_no_calls_is_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(TemplateError, match="pass a template that supports tools") as caught:
        Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tool=schemas())
def test_the_form_that_a_dialect_shows_is_read_by_its_own_parser(
    dialect: str, tool: dict[str, Any], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    spoken, call = DIALECTS[dialect], example_call(tool)
    try:
        written = spoken.format(Message("assistant", "", (call,)), [tool])
    except ConfigError:  # it has no form for such a call, and says so wherever it is asked for one
        assume_rare(dialect, call)
        return
    shown = ToolPrompt(spoken, Encoder(byte_tokenizer)).describe([tool])
    [read] = spoken.parse(written, [tool]).tool_calls
    assert (read.name, read.arguments, read.error) == (call.name, call.arguments, None)
    assert Encoder(byte_tokenizer).unprotect(shown).endswith(written)
    assert spoken.instruction in shown


def assume_rare(dialect: str, call: ToolCall) -> None:
    """A dialect may refuse only calls with values other than texts."""
    assert any(not isinstance(value, str) for value in call.arguments.values()), dialect


@pytest.mark.parametrize("dialect", ["hermes", "tags", "fenced", "llama3-json"])
@any_examples
@given(text=hostile_texts, tool=schemas())
def test_texts_of_tools_never_become_control_tokens(
    dialect: str, text: str, tool: dict[str, Any], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    renderer = Renderer(byte_tokenizer, dialect=dialect, chat_template=named_template("chatml"))
    controls = set(byte_tokenizer.get_added_vocab().values())
    harmless = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}

    def count(ids: list[int]) -> int:
        return sum(token in controls for token in ids)

    user = [Message("user", "q")]
    assert count(renderer.prompt_ids(user, [tool])) == count(renderer.prompt_ids(user, [harmless]))
    told, plain = ([Message("tool", said, name="f", tool_call_id="c")] for said in (text, "found"))
    assert count(renderer.observation_ids(told)) == count(renderer.observation_ids(plain))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_follows_a_malformed_call_is_what_follows_a_call(
    dialect: str, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    renderer = Renderer(byte_tokenizer, dialect=dialect, chat_template=named_template("chatml"))
    broken, good = ([Message("tool", "found", name=name, tool_call_id="c")] for name in ("", "search"))
    assert renderer.observation_ids(broken) == renderer.observation_ids(good)


# It shows calls, as Hermes writes them, and results, but leaves the tools out.
CALLS_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + {'name': c.function.name, 'arguments': c.function.arguments} | tojson + '</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.parametrize(("dialect", "role"), [(None, "tool"), ("hermes", "tool"), ("tags", "user")])
def test_a_template_that_shows_calls_keeps_them_if_they_are_in_the_models_dialect(
    dialect: str | None, role: str, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    renderer = Renderer(byte_tokenizer, dialect=dialect, chat_template=CALLS_ONLY)
    assert renderer.tool_prompt == "system"
    shown = renderer.decode(renderer.prompt_ids([Message("user", "q")], TOOLS))
    assert shown.count(renderer.dialect.instruction) == 1
    result = Message("tool", "found", name="search", tool_call_id="c0")
    assert f"<|im_start|>{role}\n" in renderer.decode(renderer.observation_ids([result]))
    written = renderer.template.render([Message("user", "q"), Message("assistant", "", (CALL,)), result], TOOLS)
    assert ("<search>" in written) == (dialect == "tags")


def test_one_switch_leaves_it_to_the_template_or_to_the_system_message(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    chatml, qwen = named_template("chatml"), named_template("qwen2.5")
    assert Renderer(byte_tokenizer, chat_template=qwen).tool_prompt == "template"
    told = Renderer(byte_tokenizer, chat_template=qwen, tool_prompt="system")
    assert told.decode(told.prompt_ids([Message("user", "q")], TOOLS)).count("# Tools") == 1
    with pytest.raises(TemplateError, match=r"does not show tool calls.*tool_prompt='system'"):
        Renderer(byte_tokenizer, chat_template=chatml, tool_prompt="template")
    with pytest.raises(ConfigError, match="must be 'auto', 'template' or 'system', got 'both'"):
        Renderer(byte_tokenizer, tool_prompt="both")  # type: ignore[arg-type]


def test_told_by_the_system_message_as_by_qwens_template(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    # The words are those that Qwen's models have seen, but for the example.
    theirs = Renderer(byte_tokenizer, chat_template=named_template("qwen2.5"))
    ours = Renderer(byte_tokenizer, chat_template=named_template("chatml"))
    opening = [Message("system", "Be brief."), Message("user", "q?")]
    first, second = (renderer.decode(renderer.prompt_ids(opening, TOOLS)) for renderer in (ours, theirs))
    assert "".join(first.partition("\n\nFor example")[0].split()) in "".join(second.split())
    result = [Message("tool", "found", name="search", tool_call_id="c")]
    assert ours.observation_ids(result) == theirs.observation_ids(result)


def test_a_model_without_a_template_gets_a_plain_one(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert plain_template(byte_tokenizer)[0] == "chatml"
    base = tokenizer_of("gemma3")  # its <eos> is not ChatML's
    renderer = Renderer(base)
    assert "no chat template, toolrl's 'plain' is used" in renderer.remark
    ids = renderer.prompt_ids([Message("system", "s"), Message("user", "q")])
    assert renderer.decode(ids) == "System: s\n\nUser: q\n\nAssistant:"
    assert renderer.decode(renderer.assistant_ids(Message("assistant", "hello"))) == " hello<eos>"
    begins = copy.deepcopy(base)
    begins.add_bos_token = True
    assert begins("x")["input_ids"][0] == begins.bos_token_id
    ids = Renderer(begins).prompt_ids([Message("user", "q")])
    assert begins.decode(ids) == "<|bos|>User: q\n\nAssistant:"


def test_templates_have_names() -> None:
    assert named_template("qwen2.5") == TEMPLATES["qwen2_5"]
    assert named_template("llama3") == TEMPLATES["llama3"]
    with pytest.raises(ConfigError, match=r"no chat template is named 'chatlm'; did you mean chatml"):
        named_template("chatlm")


def test_control_texts_of_the_tests_are_control_tokens(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert set(CONTROL_TEXTS) <= set(byte_tokenizer.get_added_vocab())
