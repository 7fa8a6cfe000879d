"""Settings that are given as JSON on the command line, or as mappings in a config."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from toolrl.errors import ConfigError
from toolrl.support.secret_values import expand


def parse_env_settings(text: str | dict[str, Any], env_ids: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """Read `{"ID": {"setting": value}}`, given as JSON or (from YAML) as a mapping.

    Args:
        text: The settings.
        env_ids: The environments in use; by default any may be named.

    Raises:
        ConfigError: It has another form, or names another environment.
    """
    settings = parse_json("env_settings", text)
    for env_id, value in settings.items() if isinstance(settings, dict) else [("", settings)]:
        if not isinstance(value, dict):
            shape = type(value).__name__ + (f" for {env_id!r}" if env_id else "")
            raise ConfigError(f'env_settings must be like {{"toolrl/PythonMath-v0": {{"size": 500}}}}, got {shape}')
    if env_ids is not None and (unknown := sorted(set(settings) - set(env_ids))):
        raise ConfigError(f"env_settings names {unknown[0]!r}, which is not among {sorted(env_ids)}")
    return settings


def parse_json(name: str, text: str | dict[str, Any]) -> Any:
    """Read a setting given as JSON or (from YAML) as a mapping, and expand the environment variables it names.

    Raises:
        ConfigError: It is not JSON, or a variable is not set. The message omits the text, which may hold a secret.
    """
    try:
        return expand(json.loads(text) if isinstance(text, str) else text)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name} is not valid JSON: {error}; put names and texts in double quotes") from None
