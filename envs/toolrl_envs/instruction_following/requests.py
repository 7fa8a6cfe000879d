"""Generated requests: a small topic, and up to three instructions that one text about it can follow."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from toolrl import ConfigError, Task, TaskSet
from toolrl.rewards.instructions import follows_loosely, make_instruction
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.instruction_following.topics import Topic, topics_of
from toolrl_envs.instruction_following.writer import FOREIGN

Arguments = dict[str, Any]


class Demand(NamedTuple):
    """One instruction of a request.

    Attributes:
        arguments: The arguments of its kind.
        wording: Its wording in the request.
    """

    arguments: Arguments
    wording: str


Draw = Callable[[random.Random, Topic], Demand]


class Kind(NamedTuple):
    """How instructions of one kind are drawn.

    Attributes:
        draw: Draws one for a topic.
        places: Parts of the text that it constrains; instructions that share one are not combined. "all" stands for
            every part.
    """

    draw: Draw
    places: tuple[str, ...] = ()


_STARTS = ("Write a short text about {topic}.", "Tell me something about {topic}.", "Describe {topic} to a child.")
_LANGUAGES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian", "pt": "Portuguese", "ru": "Russian"}
_COMMON_WORDS = ("good", "people", "small", "day", "slowly", "soon", "often")
_ENDINGS = ("Is there anything else you would like to know?", "That is all for today.", "Thank you for reading.")
_SECTIONS = ("Section", "PART", "Chapter")
_TOPICAL = "keywords:existence"
# Responses that must earn nothing.
_POOR = ("I do not know.", "I cannot help with that.", "Sure!", "<answer></answer>", "{prompt}")


def make_tasks(split: Split, size: int, seed: int, kinds: Sequence[str] | None = None) -> TaskSet:
    """Draw requests, cycling through the kinds of their first instruction.

    Args:
        split: The split whose topics they are about.
        size: Number of requests.
        seed: Fixes them.
        kinds: The ids of the kinds to draw from; by default all but those that need the extra for languages, and those
            that one word or an option from the request satisfies.

    Raises:
        ConfigError: A kind is unknown, or too few distinct requests exist.
        MissingExtra: A kind is about the language, and langdetect is not installed.
    """
    check_split(split, size)
    chosen = list(kinds) if kinds is not None else [id for id in KINDS if id not in (*ABOUT_LANGUAGE, *NEARLY_FREE)]
    if not chosen or any(id not in KINDS for id in chosen):
        raise ConfigError(f"kinds must be among {', '.join(KINDS)}; got {chosen!r}")
    rng, topics = random.Random(f"{split}/{seed}"), topics_of(split)
    tasks: dict[str, Task] = {}
    for attempt in range(20 * size + 200):
        if len(tasks) == size:
            break
        task = _draw(rng, rng.choice(topics), chosen[attempt % len(chosen)], chosen)
        if not _is_trivial(task):
            tasks.setdefault(task.id, task)
    if len(tasks) < size:
        raise ConfigError(
            f"only {len(tasks)} requests of kinds={chosen!r} are distinct and not already satisfied by a refusal or "
            f"the request itself; lower size={size}, or add kinds"
        )
    return TaskSet(tasks.values())


def _draw(rng: random.Random, topic: Topic, first: str, kinds: Sequence[str]) -> Task:
    ids = [first]
    # Ask for words of the topic wherever possible: a mere list of numbers, say, follows many other instructions.
    if _TOPICAL in kinds and all(_are_compatible(_TOPICAL, id) for id in ids):
        ids.append(_TOPICAL)
    for other in rng.sample(kinds, len(kinds))[: rng.choice((0, 2, 4, 8))]:
        if len(ids) < 3 and all(_are_compatible(other, id) for id in ids):
            ids.append(other)
    demands = [KINDS[id].draw(rng, topic) for id in ids]
    prompt = " ".join(
        [rng.choice(_STARTS).format(topic=topic.name), *(demand.wording for demand in demands if demand.wording)]
    )
    if "combination:repeat_prompt" in ids:
        demands[ids.index("combination:repeat_prompt")].arguments["prompt_to_repeat"] = prompt
        prompt += (
            "\nFirst repeat the request above word for word, with nothing before it, then answer it. This "
            "sentence is not part of it."
        )
    answer = {"instruction_id_list": ids, "kwargs": [demand.arguments for demand in demands]}
    metadata = {"instructions": len(ids), "subject": topic.name}
    return Task(task_id(first.replace(":", "-"), prompt), prompt, answer, metadata, kind=first, needs_tool=False)


def _are_compatible(one: str, other: str) -> bool:
    places, others = KINDS[one].places, KINDS[other].places
    return one != other and "all" not in (*places, *others) and not set(places) & set(others)


def _is_trivial(task: Task) -> bool:
    """Whether a refusal, or the request itself, follows all instructions."""
    instructions = [make_instruction(*pair) for pair in zip(*task.answer.values(), strict=True)]
    texts = [text.format(prompt=task.prompt) if text == "{prompt}" else text for text in _POOR]
    return any(all(follows_loosely(one, text) for one in instructions) for text in texts)


def _fixed(wording: str, **arguments: Any) -> Draw:
    return lambda rng, topic: Demand(dict(arguments), wording)


def _counted(name: str, low: int, high: int, wording: str, **arguments: Any) -> Draw:
    """Draws a number for the argument `name`; {n} in the wording."""

    def draw(rng: random.Random, topic: Topic) -> Demand:
        n = rng.randint(low, high)
        return Demand({name: n, **arguments}, wording.format(n=n))

    return draw


def _related(number: str, relation: str, at_least: tuple[int, int], less_than: tuple[int, int], wording: str) -> Draw:
    """Draws a relation and a number; {relation} and {n} in the wording."""

    def draw(rng: random.Random, topic: Topic) -> Demand:
        name, span = rng.choice((("at least", at_least), ("less than", less_than)))
        n = rng.randint(*span)
        return Demand({relation: name, number: n}, wording.format(relation=name, n=n))

    return draw


def _existence(rng: random.Random, topic: Topic) -> Demand:
    words = rng.sample(topic.words, rng.randint(1, 3))
    return Demand({"keywords": words}, f"Include these keywords: {', '.join(words)}.")


def _frequency(rng: random.Random, topic: Topic) -> Demand:
    word, n = rng.choice(topic.words), rng.randint(2, 4)
    return Demand(
        {"keyword": word, "frequency": n, "relation": "at least"}, f'Use the word "{word}" at least {n} times.'
    )


def _forbidden(rng: random.Random, topic: Topic) -> Demand:
    words = rng.sample(_COMMON_WORDS, rng.randint(1, 3))
    return Demand({"forbidden_words": words}, f"Do not use any of these words: {', '.join(words)}.")


def _letter(rng: random.Random, topic: Topic) -> Demand:
    letter, n = rng.choice("bfgkpvwz"), rng.randint(8, 16)
    arguments = {"letter": letter, "let_frequency": n, "let_relation": "at least"}
    return Demand(arguments, f"The letter {letter} should appear at least {n} times.")


def _first_word(rng: random.Random, topic: Topic) -> Demand:
    count = rng.randint(2, 4)
    nth, word = rng.randint(1, count), rng.choice(topic.words)
    arguments = {"num_paragraphs": count, "nth_paragraph": nth, "first_word": word}
    wording = f'There should be {count} paragraphs, one empty line apart. Begin paragraph {nth} with "{word}".'
    return Demand(arguments, wording)


def _sections(rng: random.Random, topic: Topic) -> Demand:
    count, word = rng.randint(2, 4), rng.choice(_SECTIONS)
    wording = f"Divide it into {count} sections, and begin each with {word} and its number."
    return Demand({"section_spliter": word, "num_sections": count}, wording)


def _postscript(rng: random.Random, topic: Topic) -> Demand:
    marker = rng.choice(("P.S.", "P.P.S"))
    return Demand({"postscript_marker": marker}, f"Add a postscript at the end that starts with {marker}")


def _ending(rng: random.Random, topic: Topic) -> Demand:
    phrase = rng.choice(_ENDINGS)
    return Demand({"end_phrase": phrase}, f'End with exactly this phrase, and nothing after it: "{phrase}"')


def _language(rng: random.Random, topic: Topic) -> Demand:
    code = rng.choice(sorted(FOREIGN))
    return Demand({"language": code}, f"Answer in {_LANGUAGES[code]} only.")


# No wording contains an example that would itself satisfy the instruction.
KINDS: dict[str, Kind] = {
    "keywords:existence": Kind(_existence, ("keywords",)),
    "keywords:frequency": Kind(_frequency, ("keywords",)),
    "keywords:forbidden_words": Kind(_forbidden, ("forbidden",)),
    "keywords:letter_frequency": Kind(_letter, ("letters",)),
    "length_constraints:number_sentences": Kind(
        _related("num_sentences", "relation", (4, 9), (9, 14), "Your answer should have {relation} {n} sentences."),
        ("length",),
    ),
    "length_constraints:number_paragraphs": Kind(
        _counted("num_paragraphs", 2, 5, "Write {n} paragraphs, separated by lines of three asterisks."),
        ("structure", "length"),
    ),
    "length_constraints:number_words": Kind(
        _related("num_words", "relation", (30, 90), (120, 200), "Use {relation} {n} words."), ("length",)
    ),
    "length_constraints:nth_paragraph_first_word": Kind(_first_word, ("structure", "start")),
    "detectable_content:number_placeholders": Kind(
        _counted("num_placeholders", 2, 4, "Use at least {n} placeholders in square brackets, such as [name]."),
        ("marks",),
    ),
    "detectable_content:postscript": Kind(_postscript, ("end", "capitals")),
    "detectable_format:number_bullet_lists": Kind(
        _counted(
            "num_bullets", 2, 5, "It must have exactly {n} bullet points, each on a line that begins with an asterisk."
        ),
        ("structure",),
    ),
    "detectable_format:constrained_response": Kind(
        _fixed("Do you like it? Answer with one of these: My answer is yes. / My answer is no. / My answer is maybe."),
        ("all",),
    ),
    "detectable_format:number_highlighted_sections": Kind(
        _counted("num_highlights", 2, 4, "Highlight at least {n} passages with asterisks, like *this*."), ("marks",)
    ),
    "detectable_format:multiple_sections": Kind(_sections, ("structure", "capitals")),
    "detectable_format:json_format": Kind(_fixed("Your entire answer must be valid JSON."), ("all",)),
    "detectable_format:title": Kind(_fixed("Give it a title in double angular brackets."), ("start",)),
    "combination:two_responses": Kind(
        _fixed("Give two different answers, separated by a line of six asterisks."), ("structure", "length", "end")
    ),
    "combination:repeat_prompt": Kind(_fixed(""), ("start", "length", "forbidden", "commas", "structure", "capitals")),
    "startend:end_checker": Kind(_ending, ("end",)),
    "startend:quotation": Kind(_fixed("Wrap your entire answer in double quotation marks."), ("start",)),
    "change_case:capital_word_frequency": Kind(
        _counted(
            "capital_frequency", 2, 5, "Write at least {n} words in capital letters.", capital_relation="at least"
        ),
        ("capitals",),
    ),
    "punctuation:no_comma": Kind(_fixed("Do not use any comma."), ("commas",)),
    "change_case:english_capital": Kind(_fixed("Use English and capital letters only."), ("all",)),
    "change_case:english_lowercase": Kind(_fixed("Use English and no capital letters at all."), ("all",)),
    "language:response_language": Kind(_language, ("all",)),
}
ABOUT_LANGUAGE = ("change_case:english_capital", "change_case:english_lowercase", "language:response_language")
# These cannot be combined, and almost nothing satisfies them: "0" is JSON.
NEARLY_FREE = ("detectable_format:constrained_response", "detectable_format:json_format")
