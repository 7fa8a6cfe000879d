"""Traces of verifiers 0.4 (`traces.jsonl`): a line is an episode, with the message graph and tokens of each agent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolrl.chat.wire import from_wire
from toolrl.interop.logs.base import Record, Said, listed, number_of, plain_facts
from toolrl.types import Score, StopReason

_USAGE = ("prompt_tokens", "completion_tokens")
_TURNS = ("max_turns", "max_turns_reached")
_TOKENS = ("max_total_tokens", "max_output_tokens", "max_input_tokens", "context_length")


def read_verifiers(row: Mapping[str, Any]) -> Iterator[Record]:
    """The episodes of a line: one for each way through each agent's graph.

    Raises:
        ValueError: It is not such a line.
    """
    for trace in listed(row.get("traces"), "'traces'"):
        if trace.get("version", 1) != 1:
            raise ValueError(f"its trace is of version {trace.get('version')!r}; version 1 is read")
        nodes = list(listed(trace.get("nodes", []), "'nodes'"))
        for leaf in _leaves(nodes):
            yield _record(row, trace, [nodes[place] for place in _path(nodes, leaf)])


def _leaves(nodes: Sequence[Mapping[str, Any]]) -> list[int]:
    parents = {node.get("parent") for node in nodes}
    return [place for place in range(len(nodes)) if place not in parents]


def _path(nodes: Sequence[Mapping[str, Any]], leaf: int) -> list[int]:
    path: list[int] = []
    place: int | None = leaf
    while place is not None:
        if not 0 <= place < len(nodes) or place in path:
            raise ValueError(f"a message's parent is {place!r}, which is not a message before it")
        path.append(place)
        place = nodes[place].get("parent")
    return path[::-1]


def _record(row: Mapping[str, Any], trace: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Record:
    task, agent = trace.get("task") or row.get("task") or {}, trace.get("agent") or {}
    rewards = {name: reward for name, reward in (trace.get("rewards") or {}).items() if isinstance(reward, Mapping)}
    parts = {name: number_of(reward.get("score")) or 0.0 for name, reward in rewards.items()}
    value = sum(parts[name] * (number_of(reward.get("weight", 1.0)) or 0.0) for name, reward in rewards.items())
    metrics = {
        name: number
        for name, metric in (trace.get("metrics") or {}).items()
        if (number := number_of(metric)) is not None
    }
    errors = list(listed(trace.get("errors", []), "'errors'"))
    failed = not trace.get("ok", True)
    error = f"{errors[-1].get('type')}: {errors[-1].get('message')}" if failed and errors else ""
    condition = str(trace.get("stop_condition") or "")
    stop = StopReason.TURNS if condition in _TURNS else StopReason.TOKENS if condition in _TOKENS else StopReason.ANSWER
    scored = bool(rewards) and not failed
    config = agent.get("config") or {}
    facts = {
        "agent": agent.get("name"),
        "model": config.get("model"),
        "stop_condition": condition,
        **(trace.get("info") or {}),
    }
    span = (trace.get("timing") or {}).get("agent") or {}
    return Record(
        env_id=str((row.get("env") or {}).get("id") or task.get("type") or "verifiers"),
        task_id=str(task.get("key") or task.get("hash") or (task.get("data") or {}).get("idx", "")),
        said=[_said(node) for node in nodes],
        score=Score(value, {**metrics, **parts})
        if scored
        else Score(None, reason="" if error else "the log has no reward"),
        stop=StopReason.FAULT if failed else stop,
        error=error,
        seconds=max(0.0, (number_of(span.get("end")) or 0.0) - (number_of(span.get("start")) or 0.0)),
        info={"mode": "eval", **plain_facts(facts)},
        usage={name: amount for name in _USAGE if (amount := _used(trace, name))},
    )


def _used(trace: Mapping[str, Any], name: str) -> float:
    return float(sum((call.get("usage") or {}).get(name) or 0 for call in trace.get("calls") or ()))


def _said(node: Mapping[str, Any]) -> Said:
    wire = node.get("message") or {}
    calls = [
        {"id": call.get("id"), "function": {"name": call.get("name"), "arguments": call.get("arguments")}}
        for call in wire.get("tool_calls") or ()
    ]
    return Said(
        from_wire({**wire, "tool_calls": calls}),
        token_ids=[int(token) for token in node.get("token_ids") or ()] or None,
        mask=[int(bit) for bit in node.get("mask") or ()],
        logprobs=[float(value) for value in node.get("logprobs") or ()],
    )
