"""Kinds about the form of the response: `detectable_format:*`, `combination:*`, `startend:*`, postscripts."""

from __future__ import annotations

import json
import re

from toolrl.rewards.instructions.registry import Instruction, instruction_kind
from toolrl.rewards.instructions.words import Text

# The options in IFEval's prompts; the kind has no arguments.
CONSTRAINED_RESPONSES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

_fence = re.compile(r"```(?:json|Json|JSON)?")
_postscripts = {"P.S.": re.compile(r"p\.\s?s\."), "P.P.S": re.compile(r"p\.\s?p\.\s?s")}


@instruction_kind("detectable_format:constrained_response")
class ConstrainedResponse(Instruction):
    """The response has exactly one of IFEval's three answers; the reference also accepts a list of all three."""

    def check(self, response: str) -> bool:
        return sum(option in response for option in CONSTRAINED_RESPONSES) == 1


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


@instruction_kind("detectable_format:json_format")
class JsonFormat(Instruction):
    """The whole response is JSON, bare or between markdown ticks."""

    def check(self, response: str) -> bool:
        text = response.strip()
        if fence := _fence.match(text):
            text = text[fence.end() :]
        try:
            json.loads(text.removesuffix("```"), parse_constant=_refuse)  # Python accepts NaN, which is not JSON
        except (ValueError, RecursionError):  # the latter for deeply nested brackets
            return False
        return True


@instruction_kind("detectable_format:title")
class Title(Instruction):
    """The response has a title in double angle brackets, such as <<poem of joy>>."""

    def check(self, response: str) -> bool:
        return any(map(_has_title, response.split("\n")))


@instruction_kind("detectable_content:postscript")
class Postscript(Instruction):
    """The response has a postscript after the marker, in any case; "P.S." and "P.P.S" may contain a space."""

    postscript_marker: Text

    def check(self, response: str) -> bool:
        pattern = _postscripts.get(self.postscript_marker) or re.compile(re.escape(self.postscript_marker.lower()))
        return pattern.search(response.lower()) is not None


@instruction_kind("combination:two_responses")
class TwoResponses(Instruction):
    """There are two different responses, separated by `******`."""

    def check(self, response: str) -> bool:
        responses = [part.strip() for part in response.split("******")]
        given = [part for part in responses if part]
        return len(given) == 2 and all(responses[1:-1]) and given[0] != given[1]


@instruction_kind("combination:repeat_prompt")
class RepeatPrompt(Instruction):
    """The response begins with the request, in any case."""

    prompt_to_repeat: Text

    def check(self, response: str) -> bool:
        return response.strip().lower().startswith(self.prompt_to_repeat.lower())


@instruction_kind("startend:end_checker")
class EndPhrase(Instruction):
    """The response ends with a phrase, in any case; quotes around the response are ignored."""

    end_phrase: Text

    def check(self, response: str) -> bool:
        return response.strip().strip('"').lower().endswith(self.end_phrase.lower())


@instruction_kind("startend:quotation")
class Quotation(Instruction):
    """The whole response is wrapped in double quotation marks."""

    def check(self, response: str) -> bool:
        text = response.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return end > start + 2 >= 2 and bool(line[start:end].lstrip("<").rstrip(">").strip())
