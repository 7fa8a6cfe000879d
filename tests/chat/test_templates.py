"""Promises for every template that TRL ships: exact tokens in any episode, and a table in the documentation."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from tests.chat.families import REWRITING, TEMPLATES, TOLD, WITH_TOOLS, options_of, tokenizer_of
from toolrl import Message, Renderer, ToolCall
from toolrl.errors import TemplateError

CASES = [(name, index) for name in [*WITH_TOOLS, *TOLD] for index in range(len(options_of(name)))]
TABLE = Path(__file__).parents[2] / "docs" / "templates.md"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search.",
            "parameters": {"type": "object", "properties": {"query": {"type": "string", "description": "Words."}}},
        },
    }
]
each_template = pytest.mark.parametrize(("name", "index"), CASES, ids=lambda value: str(value))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@cache
def renderer_of(name: str, index: int) -> Renderer:
    return Renderer(tokenizer_of(name), chat_template=TEMPLATES[name], template_options=options_of(name)[index])


def hostile(name: str) -> st.SearchStrategy[str]:
    controls = sorted(tokenizer_of(name).get_added_vocab())
    return st.lists(st.sampled_from([*controls, "<", "&lt;", "\ue0f00\ue0f1"]) | texts, max_size=4).map("".join)


@st.composite
def episodes(draw: st.DrawFn, name: str, calls_at_most: int) -> tuple[list[Message], list[list[Message]]]:
    """An opening, and turns with tool results; all texts may contain control tokens."""
    opening = [Message("system", "Be brief.")] * draw(st.booleans()) + [Message("user", "q" + draw(hostile(name)))]
    turns = []
    for turn in range(draw(st.integers(1, 3))):
        calls = [
            ToolCall("search", {"query": draw(hostile(name))}, id=f"call_{turn}_{index}")
            for index in range(draw(st.integers(1, calls_at_most)))
        ]
        told = [Message("tool", draw(hostile(name)), name="search", tool_call_id=call.id) for call in calls]
        turns.append([Message("assistant", "", tuple(calls)), *told])
    return opening, turns


def meaning(message: Message) -> list[tuple[str, dict[str, Any], str | None]]:
    return [(call.name, dict(call.arguments), call.error) for call in message.tool_calls]


def control_counts(renderer: Renderer, ids: list[int]) -> dict[int, int]:
    controls = set(renderer.tokenizer.get_added_vocab().values())
    return {token: ids.count(token) for token in controls & set(ids)}


@each_template
@settings(max_examples=6)
@given(data=st.data())
def test_an_episode_with_any_texts_keeps_its_tokens_and_its_meaning(name: str, index: int, data: st.DataObject) -> None:
    renderer = renderer_of(name, index)
    opening, turns = data.draw(episodes(name, 1 if renderer.template.one_call else 3))
    harmless = [Message(message.role, "q") for message in opening]
    prompt = renderer.prompt_ids(opening, TOOLS)
    assert control_counts(renderer, prompt) == control_counts(renderer, renderer.prompt_ids(harmless, TOOLS))
    for number, (assistant, *told) in enumerate(turns):
        sampled = renderer.assistant_ids(assistant)
        assert sampled[-1] in renderer.stop_token_ids
        assert not set(sampled[:-1]) & set(renderer.stop_token_ids)
        assert meaning(renderer.parse(sampled, TOOLS, after_tools=number > 0)) == meaning(assistant)
        observed = renderer.observation_ids(told, after=sampled[-1])
        plain = [Message("tool", "r", name="search", tool_call_id=message.tool_call_id) for message in told]
        assert control_counts(renderer, observed) == control_counts(
            renderer, renderer.observation_ids(plain, after=sampled[-1])
        )


@each_template
def test_appended_pieces_are_what_the_template_renders_where_the_assistant_speaks(name: str, index: int) -> None:
    renderer = renderer_of(name, index)
    thinking = "so" if renderer.opened else ""
    conversation = [Message("system", "s"), Message("user", "q?")]
    ids = renderer.prompt_ids(conversation, TOOLS)
    for number in range(3):
        calls = (ToolCall("search", {"query": "x y"}, id=f"call_{number}_0"),)
        assistant = Message("assistant", "", calls, thinking=thinking)
        told = [Message("tool", f"found {number}", name="search", tool_call_id=calls[0].id)]
        sampled = renderer.assistant_ids(assistant)
        ids = ids + sampled + renderer.observation_ids(told, after=sampled[-1])
        conversation += [assistant, *told]
        rendered = renderer.template.render(conversation, TOOLS, generate=True)
        assert renderer.decode(ids) == rendered
        assert ids == renderer.tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", REWRITING)
def test_a_template_that_adds_a_header_which_it_did_not_prompt_is_refused(name: str) -> None:
    with pytest.raises(TemplateError, match=f"'{name}' is not prefix-stable"):
        Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])


def test_a_call_that_ends_like_an_answer_gets_the_end_of_a_call() -> None:
    renderer = renderer_of("glm4moe", 0)
    told = [Message("tool", "r", name="search", tool_call_id="c")]
    observation, user = (renderer.tokenizer.convert_tokens_to_ids(t) for t in ("<|observation|>", "<|user|>"))
    usual = renderer.observation_ids(told, after=observation)
    assert renderer.observation_ids(told, after=user) == [observation, *usual]


def test_thoughts_that_the_prompt_opens_are_never_the_answer() -> None:
    renderer = renderer_of("qwen3_5_think", 0)
    ids = renderer.tokenizer.encode("4 or 5?\n</think>\n\n5", add_special_tokens=False)
    assert (renderer.parse(ids).thinking, renderer.parse(ids).content) == ("4 or 5?", "5")
    assert renderer.parse(ids[:3]).content == ""


def test_options_of_an_episode_give_a_renderer_of_their_own() -> None:
    renderer = renderer_of("qwen3", 0)
    without = renderer.with_options({"enable_thinking": False})
    assert without.template_name == "trl/qwen3_training"
    assert without is renderer.with_options({"enable_thinking": False})
    assert renderer.with_options({}) is renderer
    assert without.decode(without.prompt_ids([Message("user", "q")])).endswith("<think>\n\n</think>\n\n")


# ---- the table in the documentation


def table() -> str:
    head = [
        "# Chat templates",
        "",
        "How `Renderer` handles every template that TRL ships, but for those of vision models, whose contents are",
        "lists of parts, and `lfm2`, which shows tools but no calls. Generated by",
        "`python -m tests.chat.test_templates`; a test checks that this file is up to date.",
        "",
        "*Tools*: what shows the model its tools, its calls and their results: the template, or the system message and",
        "plain text in turns, where the template leaves tools out (docs/models.md).",
        "*Prefix-stable*: at every point where the assistant speaks, the tokens so far are what the template renders.",
        "If the template itself fails, the table names the variant that replaces it, or says that it is refused.",
        "*With users*: the same where a user answers the assistant. Many templates drop old thoughts then; a variant",
        "keeps them. TRL's are its `*_training.jinja`, toolrl's own are in `toolrl/chat/variants.py` and `templates/`.",
        "The one for gpt-oss also keeps the `<|return|>` with which the model ends its words.",
        "*Parser*: the dialect of its calls. *Round trip*: whether a call with hostile text is written and read",
        "back exactly. *Opens*: whether the prompt ends inside thoughts. *Ends*: the tokens that end a turn.",
        "",
        "What a user or a tool says never becomes a control token. Some families mark results with plain text inside a",
        "user's turn (Qwen2.5 has no token for `<tool_response>`): there, words that imitate a result look like one to",
        "the model, though never to toolrl.",
        "",
        "| template | options | tools | dialect | prefix-stable | with users | parser | round trip | calls per turn "
        "| opens | ends |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row(name, index) for name, index in CASES), *map(refusal, REWRITING), ""])


def refusal(name: str) -> str:
    with pytest.raises(TemplateError, match="not prefix-stable"):
        Renderer(tokenizer_of(name), chat_template=TEMPLATES[name])
    return f"| {name} |  |  |  | no: refused |  |  |  |  |  |  |"


def row(name: str, index: int) -> str:
    renderer = renderer_of(name, index)
    talking = renderer.with_options({}, users=True)
    options = ", ".join(f"{key}={value}" for key, value in options_of(name)[index].items())
    tokenizer = renderer.tokenizer
    stops = tokenizer.convert_ids_to_tokens(renderer.stop_token_ids)
    ends = " ".join(f"`{text}`".replace("|", "\\|") for text in stops)
    text = "".join(token for token in tokenizer.get_added_vocab() if token.strip()) + "\n\"'\\"
    call = Message("assistant", "", (ToolCall("search", {"query": text}),))
    exact = meaning(renderer.parse(renderer.assistant_ids(call), TOOLS)) == meaning(call)
    cells = [
        name,
        options,
        renderer.tool_prompt,
        renderer.dialect.name,
        *(f"with {used}" if used else "yes" for used in (renderer.template_name, talking.template_name)),
        type(renderer.dialect).__name__,
        "exact" if exact else "differs",
        "one" if renderer.template.one_call else "several",
        "yes" if renderer.opened else "",
        ends,
    ]
    return f"| {' | '.join(cells)} |"


def test_the_table_in_the_documentation_is_up_to_date() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "run: python -m tests.chat.test_templates"


if __name__ == "__main__":
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table(), encoding="utf-8")
