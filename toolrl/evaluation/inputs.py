"""What is evaluated, as people name it: environments and models by name, or as objects that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from toolrl.chat import Renderer
from toolrl.env import ToolEnv, make
from toolrl.policy import ChatPolicy, Policy, PolicySettings, open_policy

Environments = str | ToolEnv | Sequence[str | ToolEnv] | Mapping[str, ToolEnv]


def named(envs: str | ToolEnv | Sequence[str | ToolEnv]) -> dict[str, str | ToolEnv]:
    """Environments by name: an object's is what it was made by, else its class, and two of a kind are told apart."""
    found: dict[str, str | ToolEnv] = {}
    for env in [envs] if isinstance(envs, (str, ToolEnv)) else envs:
        if isinstance(env, str):
            found[env] = env
            continue
        name = env.made_from[0] if env.made_from else type(env).__name__
        found[f"{name}@{len(found) + 1}" if name in found else name] = env
    return found


@contextmanager
def opened(environments: Environments) -> Iterator[dict[str, ToolEnv]]:
    """Environments by name; those that only have a name are made, with held-out tasks, and closed at the end."""
    with ExitStack() as stack:
        made: dict[str, ToolEnv] = {}
        given = environments if isinstance(environments, Mapping) else named(environments)
        for name, env in given.items():
            if isinstance(env, str):
                env = make(env, split="test")
                stack.callback(env.close)
            made[name] = env
        yield made


@contextmanager
def model_policy(model: str) -> Iterator[tuple[Policy | ChatPolicy, Renderer | None]]:
    """The policy of a model by its name, as `--model` has it, and its renderer; closed at the end."""
    settings, renderer = PolicySettings(model=model), None
    if not settings.is_chat:
        from toolrl.policy import load_tokenizer  # which needs transformers

        renderer = Renderer(load_tokenizer(model))
    policy = open_policy(settings, renderer)
    try:
        yield policy, renderer
    finally:
        policy.close()
