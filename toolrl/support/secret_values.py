"""Secrets in settings: used, and written down nowhere.

A setting may name an environment variable, `"api_key": "${SEARCH_API_KEY}"`, which is looked up when it is used; what
is written down is the name. What looks like a secret and is given as it is (a key such as `api_key`, `password`,
`auth_token` or `Authorization`, a value such as `sk-...`, a password within an address) is used as well. A file of
settings gets the name of a variable in its place, and errors and trajectories get `***`.
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
# Tokens of a tokenizer.
_OF_NO_SECRET_TOKEN = {"bos", "cls", "end", "eos", "mask", "pad", "sep", "start", "stop", "unk"}
_VALUE = re.compile(
    r"(sk-|hf_|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|AKIA|AIza|e2b_|eyJ[\w-]{8,}\.|-----BEGIN |Bearer |Basic )"
)
_RANDOM = re.compile(r"(?=.*\d)(?=.*[A-Za-z])[\w.+/=-]{16,}")  # as keys are: `search_key`, `serper_key`
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*:|)([^/@\s]+)(?=@)")
_PARAMETER = re.compile(r"([?&]([\w.-]+)=)([^&#\s]+)")
_known: set[str] = set()
_SHORTEST_TO_HIDE = 6  # a shorter one is a part of other words


def expand(value: Any) -> Any:
    """Settings with what their environment variables hold. All secrets among them are hidden from now on.

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
    """Hide it from now on, also as it stands in JSON, in Python's reprs, and in addresses."""
    escaped = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    _known.update((secret, *escaped, quote(secret, safe=""), unquote(secret)))


def without_secrets(value: Any) -> Any:
    """Settings with the name of an environment variable, `${TOOLRL_...}`, in the place of each secret."""
    names: dict[str, str] = {}

    def reference(name: str, secret: Any) -> str:
        wanted = "TOOLRL_" + re.sub(r"\W+", "_", name).upper()
        while names.setdefault(wanted, str(secret)) != str(secret):
            wanted += "_2"
        return f"${{{wanted}}}"

    return _replace_secrets(value, reference)


def hide(text: str) -> str:
    """The text with `***` for each secret that was used, and for passwords in addresses."""
    for secret in sorted((s for s in _known if len(s) >= _SHORTEST_TO_HIDE), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _PASSWORD.sub(r"\1***", text)


def hide_within(value: Any) -> Any:
    """`hide` for every text within lists and mappings."""
    return _map_texts(value, hide) if _known else value


def is_secret(name: str, value: Any) -> bool:
    """Whether a setting of that name and value looks like a secret."""
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
            lambda match: (  # a name alone is a secret only if it is as long as one
                match.group(1) + _kept(replace, "password", match.group(2))
                if match.group(1) or len(match.group(2)) >= 16
                else match.group(0)
            ),
            value,
        )
        value = _PARAMETER.sub(
            lambda match: (
                match.group(1) + _kept(replace, match.group(2), match.group(3))
                if is_secret(match.group(2), match.group(3)) or match.group(2).lower() == "key"
                else match.group(0)
            ),
            value,
        )
    return value


def _kept(replace: Callable[[str, Any], Any], name: str, secret: str) -> str:
    return secret if _REFERENCE.fullmatch(secret) else str(replace(name, secret))


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value
