"""An agent written with smolagents, unchanged: a `ToolCallingAgent` with an environment's tools and a short prompt.

It rewrites its history at each step (calls and results become text), so that each step is a conversation of its own.
"""

from __future__ import annotations

import asyncio
from typing import Any

from toolrl.gateway import AgentContext

STEPS = 5
SYSTEM = "Solve the task with the tools. Give the result to final_answer."


async def play(context: AgentContext) -> str:
    """Run the agent on a thread; its tools are the environment's."""
    import smolagents  # type: ignore[import-not-found,import-untyped,unused-ignore]

    loop = asyncio.get_running_loop()

    class Called(smolagents.Tool):  # type: ignore[misc,unused-ignore]
        skip_forward_signature_validation = True

        def __init__(self, schema: Any):
            function = schema["function"]
            self.name, self.description = function["name"], function["description"]
            properties = function["parameters"]["properties"]
            self.inputs = {
                name: {"type": "string", "description": str(about.get("description", ""))}
                for name, about in properties.items()
            }
            self.output_type = "string"
            super().__init__()

        def forward(self, **arguments: Any) -> str:
            called = asyncio.run_coroutine_threadsafe(context.call(self.name, **arguments), loop)
            return called.result()

    def run() -> str:
        model = smolagents.OpenAIServerModel(
            context.model, api_base=context.base_url, api_key=context.api_key, client_kwargs={"max_retries": 0}
        )
        templates = {**smolagents.agents.EMPTY_PROMPT_TEMPLATES, "system_prompt": SYSTEM}
        agent = smolagents.ToolCallingAgent(
            tools=[Called(schema) for schema in context.tools], model=model, prompt_templates=templates,
            max_steps=STEPS, verbosity_level=0,
        )  # fmt: skip
        # What it would do at its last step, asking for an answer in words, has no tools and no turn of its own here.
        agent.provide_final_answer = lambda *_: smolagents.models.ChatMessage("assistant", "")
        return str(agent.run(context.prompt) or "")

    answer = await asyncio.to_thread(run)
    return f"<answer>{answer}</answer>"
