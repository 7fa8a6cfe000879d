"""Secrets in settings are used, but never written to disk."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from toolrl import ConfigError, TrajectoryWriter
from toolrl.support.secret_values import expand, hide, hide_within, is_secret, without_secrets
from toolrl.trajectory import Trajectory, Turn, read_trajectories
from toolrl.types import Message, Sample, Score, StopReason, ToolCall
from toolrl.view.terminal import print_trajectory

SECRETS = {
    "api_key": "nothing-special-1", "apiKey": "nothing-special-2", "X-API-Key": "nothing-special-3",
    "password": "hunter22", "db_password": 12345678, "auth_token": "nothing-special-4", "HFToken": "nothing-special-5",
    "client_secret": "nothing-special-6", "Authorization": "Bearer nothing-special-7", "endpoint": "sk-abcdefghijkl",
    "retriever": "https://user:pa55word@host:80/v1?n=3", "url": "https://host/?api_key=nothing-special-8&n=3",
    "nested": {"headers": [{"cookie": "nothing-special-9"}]}, "tokens": ["hf_abcdefghijk"],
}  # fmt: skip
HIDDEN = (
    *(f"nothing-special-{number}" for number in range(1, 10)), "hunter22", "12345678", "sk-abcdefghijkl", "pa55word",
    "hf_abcdefghijk",
)  # fmt: skip
PLAIN = {
    "max_tokens": 5, "thinking_tokens": 7, "tokenizer": "qwen", "eos_token": "<|im_end|>", "answer_key": "answer",
    "data": "openai/gsm8k:main", "retriever": "http://127.0.0.1:8000", "size": 500, "author": "x", "monkey": "y",
    "database": "postgres://user@host/db",
}  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
def test_a_file_of_settings_has_variables_in_place_of_secrets(as_text: bool) -> None:
    settings = {"toolrl/OpenQA-v0": SECRETS | PLAIN | {"retriever": SECRETS["retriever"]}}
    kept = without_secrets({"env_settings": json.dumps(settings) if as_text else settings})["env_settings"]
    text = kept if as_text else json.dumps(kept)
    assert not [secret for secret in HIDDEN if secret in text]
    back = json.loads(text)["toolrl/OpenQA-v0"]
    assert {name: back[name] for name in PLAIN if name != "retriever"} == {
        name: value for name, value in PLAIN.items() if name != "retriever"
    }
    assert back["api_key"] == "${TOOLRL_API_KEY}"
    assert back["retriever"] == "https://user:${TOOLRL_PASSWORD}@host:80/v1?n=3" or "_2" in back["retriever"]


def test_two_secrets_of_one_name_have_two_variables() -> None:
    kept = without_secrets({"a": {"api_key": "first"}, "b": {"api_key": "second"}, "c": {"api_key": "first"}})
    assert kept["a"] == kept["c"] != kept["b"]


def test_other_values_stay() -> None:
    assert without_secrets(PLAIN) == PLAIN
    assert not any(is_secret(name, value) for name, value in PLAIN.items())


def test_a_variable_is_looked_up_and_only_its_name_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_API_KEY", "value-of-the-key")
    monkeypatch.setenv("DATA_FOLDER", "/somewhere/else")
    settings = {"api_key": "${SEARCH_API_KEY}", "data": "${DATA_FOLDER}/x", "price": "${amount}", "cost": "$5"}
    assert expand(settings) == {
        "api_key": "value-of-the-key", "data": "/somewhere/else/x", "price": "${amount}", "cost": "$5",
    }  # fmt: skip
    assert without_secrets(settings) == settings
    assert hide("401 for value-of-the-key in /somewhere/else") == "401 for *** in /somewhere/else"
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE, which is not set"):
        expand({"api_key": "${NOT_SET_ANYWHERE}"})


def test_errors_and_trajectories_have_stars(tmp_path: Path) -> None:
    expand({"e": SECRETS})
    message = "refused: " + json.dumps(SECRETS)
    assert not [secret for secret in HIDDEN if secret in hide(message)]
    assert hide("cannot reach http://joe:some-other-password@host") == "cannot reach http://joe:***@host"
    assert hide_within({"a": ["hunter22", 3]}) == {"a": ["***", 3]}
    score = Score(None, reason="401: hunter22")
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write(Trajectory("1", "env", "task", (), [], (), score, StopReason.FAULT, error="401: hunter22"))
    row = json.loads((tmp_path / "t.jsonl").read_text())
    assert row["error"] == row["reason"] == "401: ***"


def test_a_secret_is_hidden_however_it_is_escaped(tmp_path: Path) -> None:
    password, key = 'pa"ss\\wörd\n7', "p%40ss%2Fword"
    expand({"password": password, "url": f"https://joe:{key}@host/", "search_key": "0123456789abcdef"})
    told = [json.dumps(password), repr(password), password, "p@ss/word", key, "search_key=0123456789abcdef"]
    assert [hide(f"401 for {text}") for text in told][3:] == ["401 for ***"] * 2 + ["401 for search_key=***"]
    assert not [text for text in told if "7" in hide(text)]
    message = Message("assistant", "", (ToolCall("login", {"with": password}, "1"),))
    turn = Turn(Sample([1], [0.0], "stop"), message)
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write(Trajectory("1", "env", "task", (), [], (turn,), Score(1.0), StopReason.ANSWER))
    [read] = read_trajectories(tmp_path / "t.jsonl")
    assert read.turns[0].message.tool_calls[0].arguments == {"with": "***"}
    console = Console(record=True, file=io.StringIO())
    print_trajectory(console, Trajectory("1", "env", "task", (), [], (turn,), Score(1.0), StopReason.ANSWER))
    assert '{"with": "***"}' in console.export_text()
