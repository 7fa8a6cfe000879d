"""The Agent Trajectory Interchange Format, ATIF 1: one JSON object per session; rewards are not part of it.

Source: https://github.com/laude-institute/harbor/blob/main/docs/rfcs/0001-trajectory-format.md
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from toolrl.chat.wire import from_wire
from toolrl.interop.logs.base import Record, Said, listed, number_of, plain_facts
from toolrl.types import Message

_ROLES = {"system": "system", "user": "user", "agent": "assistant"}
_AMOUNTS = {
    "total_prompt_tokens": "prompt_tokens", "total_completion_tokens": "completion_tokens", "total_cost_usd": "dollars",
}  # fmt: skip


def read_atif(session: Mapping[str, Any]) -> Record:
    """A session.

    Raises:
        ValueError: It is not one, or of another major version.
    """
    version = str(session.get("schema_version", ""))
    if not version.startswith("ATIF-v1."):
        raise ValueError(f"its schema_version is {version!r}; ATIF-v1 is read")
    agent = session.get("agent") or {}
    totals = session.get("final_metrics") or {}
    steps = list(listed(session.get("steps"), "'steps'"))
    amounts = {ours: number_of(totals.get(theirs)) for theirs, ours in _AMOUNTS.items()}
    facts = {"agent": agent.get("name"), "model": agent.get("model_name"), **(session.get("extra") or {})}
    return Record(
        env_id=str(agent.get("name") or "atif"),
        task_id="",
        said=_with_tokens([said for step in steps for said in _said(step)], steps),
        info={"mode": "eval", "session": str(session.get("session_id", "")), **plain_facts(facts)},
        usage={name: amount for name, amount in amounts.items() if amount is not None},
    )


def _with_tokens(said: Sequence[Said], steps: Sequence[Mapping[str, Any]]) -> list[Said]:
    """The same with tokens, if every step of the agent has them and each prompt goes on from what was before it.

    What lies between two samples counts as said before the second one.
    """
    found: list[Said] = []
    known: list[int] = []
    sampled = iter([step.get("metrics") or {} for step in steps if step.get("source") == "agent"])
    for one in said:
        if one.message.role != "assistant":
            found.append(replace(one, token_ids=()))
            continue
        metrics = next(sampled)
        prompt, completion, logprobs = (
            metrics.get(name) or [] for name in ("prompt_token_ids", "completion_token_ids", "logprobs")
        )
        if not completion or len(completion) != len(logprobs) or prompt[: len(known)] != known:
            return list(said)
        between = prompt[len(known) :]
        mask = [0] * len(between) + [1] * len(completion)
        found.append(replace(one, token_ids=[*between, *completion], mask=mask, logprobs=logprobs))
        known = prompt + completion
    return found


def _said(step: Mapping[str, Any]) -> Iterator[Said]:
    """The message of a step, and what its calls returned."""
    source = step.get("source")
    if source not in _ROLES:
        raise ValueError(f"a step's source is {source!r}, not one of {', '.join(_ROLES)}")
    calls = [
        {
            "id": call.get("tool_call_id"),
            "function": {"name": call.get("function_name"), "arguments": call.get("arguments")},
        }
        for call in step.get("tool_calls") or ()
    ]
    wire = {
        "role": _ROLES[source],
        "content": step.get("message"),
        "reasoning_content": step.get("reasoning_content"),
        "tool_calls": calls,
    }
    yield Said(from_wire(wire))
    for result in (step.get("observation") or {}).get("results") or ():
        content = from_wire({"role": "tool", "content": result.get("content")}).content
        id = str(result.get("source_call_id") or "")
        # What comes back without a call, such as a terminal's screen, is said to the agent.
        yield Said(
            Message("tool", content, tool_call_id=id) if calls and (id or len(calls) == 1) else Message("user", content)
        )
