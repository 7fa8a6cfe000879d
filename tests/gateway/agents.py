"""A small agent without an SDK: a loop over chat completions and the environment's tools."""

from __future__ import annotations

import json
from typing import Any

import httpx

from toolrl.gateway import AgentContext, EpisodeOver, ToolMistake


async def play(context: AgentContext) -> str:
    """Ask, call what the model asks for, and return what it says in the end."""
    headers = {"Authorization": f"Bearer {context.api_key}"}
    messages: list[Any] = [{"role": "user", "content": context.prompt}]
    if context.system_prompt:
        messages.insert(0, {"role": "system", "content": context.system_prompt})
    async with httpx.AsyncClient(base_url=context.base_url, headers=headers, timeout=100.0, verify=False) as client:
        for _ in range(6):
            body = {"model": context.model, "messages": messages, "tools": list(context.tools)}
            answer = (await client.post("/chat/completions", json=body)).json()
            if "error" in answer:
                return ""
            message = answer["choices"][0]["message"]
            messages.append(message)
            if not message.get("tool_calls"):
                return str(message["content"] or "")
            for call in message["tool_calls"]:
                arguments = json.loads(call["function"]["arguments"])
                try:
                    text = await context.call(call["function"]["name"], **arguments)
                except EpisodeOver:
                    return ""
                except ToolMistake as mistake:
                    text = str(mistake)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    return ""


def not_async(context: AgentContext) -> str:
    """No agent."""
    return ""
