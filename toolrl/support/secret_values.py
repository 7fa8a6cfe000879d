"""Secrets in settings: used, but never written to disk.

A setting may name an environment variable, `"api_key": "${SEARCH_API_KEY}"`, which is looked up on use; only its name
is written. A literal secret (a key such as `api_key`, `password`, `auth_token` or `Authorization`, a value such as
`sk-...`, a password within a URL) works too: files of settings get the name of a variable in its place, errors and
trajectories get `***`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from toolrl.errors import ConfigError

_REFERENCE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)\}")
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_ALONE = {
    "apikey", "auth", "authorization", "bearer", "cookie", "credential", "credentials", "jwt", "passcode", "passphrase",
    "passwd", "password", "pwd", "secret", "secrets", "token",
}  # fmt: skip
_OF_A_KEY = {
    "access", "account", "api", "auth", "encryption", "private", "secret", "service", "signing", "subscription",
}  # fmt: skip
# Tokens of a tokenizer, not secrets.
_OF_NO_SECRET_TOKEN = {"bos", "cls", "end", "eos", "mask", "pad", "sep", "start", "stop", "unk"}
_VALUE = re.compile(
    r"(sk-|hf_|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AKIA|AIza|e2b_|eyJ[\w-]{8,}\.|-----BEGIN |Bearer |Basic )"
)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.+/=-]{16,}")  # like the values of `search_key` and `serper_key`
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*:|)([^/@\s]+)(?=@)")
_PARAMETER = re.compile(r"([?&]([\w.-]+)=)([^&#\s]+)")
_known: set[str] = set()
_SHORTEST_TO_HIDE = 6  # a shorter one would match parts of other words


def expand(value: Any) -> Any:
    """Replace environment variables in settings by their values. All secrets among them are hidden from now on.

    Raises:
        ConfigError: A variable is not set.
    """

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"a setting names the environment variable {name}, which is not set; export {name}=...")
        if is_secret(name, os.environ[name]):
            _remember(os.environ[name])
        return os.environ[name]

    def remember(name: str, secret: Any) -> Any:
        _remember(re.sub(r"^(Bearer|Basic) ", "", str(secret)))
        return secret

    expanded = _map_texts(value, lambda text: _REFERENCE.sub(look_up, text))
    _replace_secrets(expanded, remember)
    return expanded


def _remember(secret: str) -> None:
    """Hide a secret from now on, also in JSON, in Python's reprs and in URLs."""
    escaped = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    _known.update((secret, *escaped, quote(secret, safe=""), unquote(secret)))


def without_secrets(value: Any) -> Any:
    """Replace each secret in settings by the name of an environment variable, `${TOOLRL_...}`."""
    names: dict[str, str] = {}

    def reference(name: str, secret: Any) -> str:
        wanted = "TOOLRL_" + re.sub(r"\W+", "_", name).upper()
        while names.setdefault(wanted, str(secret)) != str(secret):
            wanted += "_2"
        return f"${{{wanted}}}"

    return _replace_secrets(value, reference)


def hide(text: str) -> str:
    """Replace each secret that was used, and passwords in URLs, by `***`."""
    for secret in sorted((s for s in _known if len(s) >= _SHORTEST_TO_HIDE), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1***", text)


def hide_within(value: Any) -> Any:
    """Apply `hide` to every string within lists and mappings."""
    return _map_texts(value, hide) if _known else value


def is_secret(name: str, value: Any) -> bool:
    """Whether a setting with this name and value looks like a secret."""
    if isinstance(value, str) and _VALUE.match(value):
        return True
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        return False
    words = {word.lower() for word in _WORDS.findall(name)}
    if "token" in words and (words & _OF_NO_SECRET_TOKEN or not isinstance(value, str)):
        return False
    of_a_key = words & _OF_A_KEY or _RANDOM.fullmatch(str(value))
    return bool(words & _ALONE) or ("key" in words and bool(of_a_key))


def _replace_secrets(value: Any, replace: Callable[[str, Any], Any], name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _replace_secrets(item, replace, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_secrets(item, replace, name) for item in value]
    if isinstance(value, str) and value.lstrip().startswith("{"):  # settings as JSON
        try:
            inner = json.loads(value)
        except ValueError:
            inner = None
        if isinstance(inner, dict):
            replaced = _replace_secrets(inner, replace, name)
            return value if replaced == inner else json.dumps(replaced, ensure_ascii=False)
    if isinstance(value, str) and _REFERENCE.fullmatch(value):
        return value
    if is_secret(name, value):
        return replace(name or "secret", value)
    if isinstance(value, str):
        value = _PASSWORD.sub(
            lambda match: (  # a user name without a password only if it is as long as a secret
                match.group(1) + _replaced(replace, "password", match.group(2))
                if match.group(1) or len(match.group(2)) >= 16
                else match.group(0)
            ),
            value,
        )
        value = _PARAMETER.sub(
            lambda match: (
                match.group(1) + _replaced(replace, match.group(2), match.group(3))
                if is_secret(match.group(2), match.group(3)) or match.group(2).lower() == "key"
                else match.group(0)
            ),
            value,
        )
    return value


def _replaced(replace: Callable[[str, Any], Any], name: str, secret: str) -> str:
    return secret if _REFERENCE.fullmatch(secret) else str(replace(name, secret))


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value
