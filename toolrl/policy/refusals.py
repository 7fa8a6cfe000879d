"""What chat APIs mean by a refusal: a full context, the account, a wrong name, or a field they do not accept.

The wordings are the servers' own, collected from their sources and from reports of users:
OpenAI and Azure, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio, LiteLLM, OpenRouter, Anthropic, Mistral, DeepSeek,
Together, Groq, xAI, Google, Cohere, Fireworks, Bedrock, DashScope.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_log = logging.getLogger(__name__)

_full = re.compile(
    r"context_(length|window)_exceeded|contextwindowexceeded|exceed_context_size|model_context_window_exceeded"
    r"|(maximum|max|available|model'?s|model) context (length|window|size|limit)"
    r"|maximum (model|prompt|input|sequence|allowed( input)?) length|max_model_len|max_seq_len"
    r"|exceed(s|ed|ing)? (the )?(model'?s |maximum |available |allowed |configured )*"
    r"(context|input (length|token)|number of (input )?tokens)"
    r"|exceeds (the )?maximum number of tokens"
    r"|(?<!audio )(?<!image )(?<!video )(prompt|input)( \([^)]*\))? (is )?too long|input length .{0,80}exceed"
    r"|too large for model with|too many (input |prompt )?tokens|prompt (length|token count) .{0,80}(exceed|limit)"
    r"|`?inputs`? tokens \+ `?max_new_tokens`? must be|`?inputs`? must have less than"
    r"|(tokens|length) exceeds? (the )?context|context the overflows|context length of only|context overflow"
    r"|(input|prompt|request|message)s?( \([^)]*\))? (is|are) longer than"
    r"|reduce the length of the (messages?|input|prompt)"
    r"|max_(completion_)?tokens must be at least 1, got -"
    r"|range of input length should be|上下文.{0,20}(超|长度)",
    re.IGNORECASE,
)
_size = r"\b(context|prompts?|inputs?|conversation|messages|sequence|tokens?)\b"
_over = r"(exceed|too (long|large|many)\b|(longer|larger|greater|more) than|overflow|(only|not) .{0,20}\bfit\b)"
_too_long = re.compile(rf"{_size}.{{0,60}}{_over}|{_over}.{{0,60}}{_size}", re.IGNORECASE)
# Other things that can be too long.
_others = re.compile(
    r"\b(images?|audios?|videos?|files?|upload|deadline|timeout|time|requests|tool|tools|stop|completion|output|max_tokens)\b",
    re.IGNORECASE,
)
_rate = re.compile(r"rate.?limit|per.?minute|tokens per|\btpm\b|retry.?delay|retry in|try again in", re.IGNORECASE)
_account = re.compile(
    r"insufficient.?(quota|balance|credit|fund)|exceeded your current quota|credit balance is too low|out of credits"
    r"|billing_hard_limit|billing_not_active|quota_?exceeded|payment required|arrear|access_terminated",
    re.IGNORECASE,
)
_wrong = re.compile(
    r"model_not_found|invalid_model|invalid model|model not exist|not a valid model|unknown model|no such model"
    r"|deploymentnotfound|model\W.{0,120}(does not exist|not found|is not available|has been deprecated)"
    r"|(incorrect|invalid|missing|expired)[ _]api[ _]?key|api[ _]?key (is )?(not valid|invalid|expired)"
    r"|invalid_authentication"
    r"|does not support (tools|tool use|function)|tool.?(choice|call|use).{0,60}(requires|not supported|unsupported)",
    re.IGNORECASE,
)
_unsupported = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|not permitted|not allowed|extra.?(inputs|forbidden|fields)"
    r"|unexpected"
    r"|invalid (parameter|argument|field|param)|deprecated|only (the )?(default|1)|must be 1|instead",
    re.IGNORECASE,
)
_numbers = {
    "context": re.compile(
        r"(?:context length|model length|context (?:window|size))(?: is| of|:)?(?: only)?\D{0,3}(\d+)"
        r"|must be <= (\d+)"
        r"|context limit: \d+ \+ \d+ > (\d+)",
        re.IGNORECASE,
    ),
    "used": re.compile(
        r"(\d+) input tokens|\((\d+) (?:tokens )?(?:in|from|of) the (?:messages|prompt|input|text)"
        r"|(\d+) tokens in the messages|(\d+) tokens from the input|given: (\d+) `?inputs|context limit: (\d+) \+"
        r"|resulted in (\d+) tokens|input \((\d+) tokens",
        re.IGNORECASE,
    ),
}
# Fields that are left out for a server that does not accept them.
_DISPENSABLE = (
    "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty",
    "parallel_tool_calls",
)  # fmt: skip
_LIMITS = ("max_tokens", "max_completion_tokens")
_ROLES = ("system", "developer", "user")


def is_context_full(text: str, status: int = 400) -> bool:
    """Whether a refusal says that the conversation is longer than the model's context.

    Args:
        text: The server's message.
        status: The HTTP status. Unless it blames the request, only well-known wordings count.
    """
    if _rate.search(text) and "context" not in text.lower():
        return False
    return bool(_full.search(text)) or bool(
        status in (400, 413, 422) and _too_long.search(text) and not _others.search(text)
    )


def room_left(text: str) -> int | None:
    """Tokens that are left for a reply to a refused conversation; None if the refusal does not say."""
    context, used = (
        max((int(next(filter(None, match.groups()))) for match in pattern.finditer(text)), default=None)
        for pattern in (_numbers["context"], _numbers["used"])
    )
    return None if context is None or used is None else max(0, context - used)


def needs_user_action(status: int, text: str) -> bool:
    """Whether a refusal is about the account, the key or the model's name, so that retrying is pointless."""
    if status in (400, 402, 403, 429) and _account.search(text):
        return status != 429 or "insufficient_quota" in text or not _rate.search(text)
    return status in (400, 401, 402, 403, 404, 422) and (status in (401, 402, 403, 404) or bool(_wrong.search(text)))


class ServerQuirks:
    """What one server does not accept, learnt from its refusals and shared by all threads.

    Args:
        name: What the log calls the server.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._renamed: dict[str, str] = {}
        self._left_out: set[str] = set()
        self._role = 0  # index in _ROLES of the role that system messages are sent with

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request in a form that the server accepts."""
        with self._lock:
            renamed, left_out, role = dict(self._renamed), set(self._left_out), _ROLES[self._role]
        fitted = {renamed.get(name, name): value for name, value in body.items() if name not in left_out}
        if role != "system" and "messages" in fitted:
            fitted["messages"] = _without_system(fitted["messages"], role)
        return fitted

    def learn(self, body: Mapping[str, Any], sent: Mapping[str, Any], text: str) -> bool:
        """Learn from a refusal; returns whether the request would now be sent differently.

        Args:
            body: The original request.
            sent: The request as it was sent.
            text: The server's message.
        """
        parameter, message = _complaint(text)
        with self._lock:
            if self.apply(body) != sent:
                return True  # another thread has learnt it in the meantime
            learnt = self._learn(sent, parameter, message)
        if learnt:
            _log.warning("%s %s; it answered: %s", self._name, learnt, message[:200])
        return bool(learnt)

    def _learn(self, sent: Mapping[str, Any], parameter: str, message: str) -> str:
        if not _unsupported.search(message):
            return ""
        for name, other in (_LIMITS, _LIMITS[::-1]):
            if name in sent and name not in self._renamed and other not in self._renamed:
                meant = parameter == name or (not parameter and re.search(rf"\b{name}\b", message))
                if meant and (name == "max_tokens" or other not in message or parameter == name):
                    self._renamed[name] = other
                    return f"gets {other} instead of {name} from now on"
        for name in _DISPENSABLE:
            if name in sent and (parameter == name or (not parameter and re.search(rf"\b{name}\b", message))):
                self._left_out.add(name)
                return f"gets no {name} from now on"
        roles = {message.get("role") for message in sent.get("messages", ())}
        said = f"{parameter} {message}".lower()
        if _ROLES[self._role] in roles & {"system", "developer"} and "role" in said and _ROLES[self._role] in said:
            self._role += 1
            return f"gets system messages as {_ROLES[self._role]!r} from now on"
        return ""


def _complaint(text: str) -> tuple[str, str]:
    """The parameter that a refusal names, if any, and its message."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return "", text
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        detail = error.get("detail")
        if isinstance(detail, list) and detail and isinstance(detail[0], dict):  # FastAPI's form
            location = detail[0].get("loc") or [""]
            return str(location[-1]), f"{detail[0].get('msg')} ({detail[0].get('type')})"
        words = " ".join(str(error[name]) for name in ("message", "detail", "code", "type") if error.get(name))
        return str(error.get("param") or ""), words or text
    return "", text


def _without_system(messages: Sequence[Mapping[str, Any]], role: str) -> list[dict[str, Any]]:
    """Give system messages another role; as the user's they are merged into the next user message."""
    if role != "user":
        return [{**message, "role": role} if message["role"] == "system" else dict(message) for message in messages]
    fitted: list[dict[str, Any]] = []
    pending = ""
    for message in messages:
        if message["role"] == "system":
            pending += f"{message['content']}\n\n"
        elif pending and message["role"] == "user":
            fitted.append({**message, "content": f"{pending}{message['content']}"})
            pending = ""
        else:
            fitted.append(dict(message))
    return [*([{"role": "user", "content": pending.strip()}] if pending else []), *fitted]
