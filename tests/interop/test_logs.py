"""Promises about logs of others: they say here what they say there, and nothing else; broken ones are named.

`logs/` has files that the programs themselves wrote: inspect-ai 0.3.285 with its mock model, verifiers 0.4.0, TRL 1.16.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas
import pytest
from typer.testing import CliRunner

from toolrl import StopReason, TaskError, ToolFailure, Trajectory, load
from toolrl.cli import app
from toolrl.errors import ConfigError
from toolrl.interop.logs import FORMATS, read_log
from toolrl.interop.logs.inspect import _member
from toolrl.view.html import page_html
from toolrl.view.report import report_on

LOGS = Path(__file__).parent / "logs"
INSPECT, VERIFIERS, TRL = LOGS / "doubling.eval", LOGS / "traces.jsonl", LOGS / "completions_00001.parquet"
HARBOR = LOGS / "trajectory.json"


def read(path: Path, format: str = "") -> list[Trajectory]:
    return list(read_log(path, format))


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def said(episode: Trajectory) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in episode.messages]


# ---- Inspect


def test_a_log_of_inspect_says_what_it_said_there() -> None:
    found = {episode.task_id: episode for episode in read(INSPECT)}
    assert list(found) == ["t13", "t4", "t5", "t66", "t7", "t99"]
    right = found["t4"]
    assert said(right) == [
        ("system", "Use tools."), ("user", "What is twice 4?"), ("assistant", "tool call for tool double"),
        ("tool", "8"), ("assistant", "8"),
    ]  # fmt: skip
    assert (right.env_id, right.score.value, right.score.answer) == ("doubling", 1.0, "8")
    assert right.score.parts == {"correct": 1.0, "match": 1.0, "includes": 1.0}
    assert right.turns[0].message.tool_calls[0].arguments == {"number": 4}
    assert right.info == {"mode": "eval", "model": "mockllm/model", "epoch": 1, "level": 1, "topic": "sums"}
    assert right.usage == {"input_tokens": 70.0, "output_tokens": 26.0}
    assert not right.has_tokens
    assert found["t5"].score.value == 0.0
    (failed,) = found["t13"].tool_results
    assert (failed.failure, failed.content) == (ToolFailure.RAISED, "unlucky")
    assert (found["t66"].stop, found["t66"].score.value) == (StopReason.FAULT, None)
    assert "broken" in found["t66"].error
    assert found["t99"].stop is StopReason.TURNS


def test_inspects_json_form_is_read_too_with_its_attachments(tmp_path: Path) -> None:
    with zipfile.ZipFile(INSPECT) as archive:
        samples = [_member(archive, name) for name in archive.namelist() if name.startswith("samples/")]
        header = _member(archive, "header.json")
    first = next(sample for sample in samples if sample["id"] == "t4")
    first["attachments"] = {"abc": "a very long text"}
    first["messages"][0]["content"] = "attachment://abc"
    log = write(tmp_path / "log.json", {**header, "samples": samples})
    found = {episode.task_id: episode for episode in read(log)}
    assert found["t4"].prompt[0].content == "a very long text"
    assert [e.score for e in read(INSPECT)] == [found[e.task_id].score for e in read(INSPECT)]


# ---- verifiers


def test_traces_of_verifiers_keep_their_tokens_and_rewards() -> None:
    right, wrong, failed = read(VERIFIERS)
    assert (right.env_id, right.task_id) == ("doubling", "t4")
    assert right.score.value == pytest.approx(1.05)  # 1 + 0.1 * 0.5
    assert right.score.parts == {"correct": 1.0, "brief": 0.5, "turns": 2.0}
    assert right.prompt_ids == [1, 2, 3, 4, 5, 6]
    assert right.completion_ids == [7, 8, 9, 6, 10]
    assert right.mask == [1, 1, 0, 0, 1]
    assert right.logprobs == [-0.5, -0.25, 0.0, 0.0, -0.125]
    assert right.turns[0].message.thinking == "hm"
    assert said(wrong)[-1] == ("assistant", "0")
    assert (wrong.score.value, wrong.has_tokens) == (pytest.approx(0.05), False)
    assert (failed.score.value, failed.stop, failed.error) == (None, StopReason.FAULT, "ProviderError: gone")
    assert Trajectory.from_row(right.to_row()).completion_ids == right.completion_ids


def test_each_way_through_a_graph_is_an_episode(tmp_path: Path) -> None:
    row = json.loads(VERIFIERS.read_text().splitlines()[0])
    nodes = row["traces"][0]["nodes"]
    nodes.append({**nodes[4], "message": {"role": "assistant", "content": "eight"}})
    first, second = read(write(tmp_path / "t.jsonl", row))
    assert [said(episode)[-1][1] for episode in (first, second)] == ["8", "eight"]
    assert first.id != second.id
    nodes[1]["parent"] = 4
    with pytest.raises(TaskError, match=r"t\.jsonl, line 1: .*parent is"):
        read(write(tmp_path / "t.jsonl", row))


# ---- TRL


def test_completions_of_trl_have_their_rewards_as_parts() -> None:
    found = read(TRL)
    assert len(found) == 4
    assert said(found[0])[0] == ("user", "What is 2 + 1?")
    assert found[0].score.value == pytest.approx(1.7)
    assert set(found[0].score.parts) == {"length", "polite"}
    assert found[0].info["step"] == 1
    assert found[0].info["logged_advantage"] == pytest.approx(-0.7066, abs=1e-3)
    assert found[0].task_id == found[1].task_id != found[2].task_id


def test_completions_may_be_texts_or_lists_with_calls(tmp_path: Path) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1, "y": None}}}]
    rows = [
        {"step": 1, "prompt": "2?", "completion": "<think>hm</think>4", "reward": 1.0, "advantage": None},
        {
            "step": 2, "prompt": [{"role": "user", "content": "3?"}], "reward": None, "advantage": 0.5,
            "completion": [
                {"role": "assistant", "content": "", "tool_calls": calls},
                {"role": "tool", "content": "6", "name": "f"},
            ],
        },
    ]  # fmt: skip
    frames = [pandas.DataFrame([row]) for row in rows]
    for frame, name in zip(frames, ("a.parquet", "b.parquet"), strict=True):
        frame.to_parquet(tmp_path / name)
    (text,), (called,) = read(tmp_path / "a.parquet"), read(tmp_path / "b.parquet")
    assert (text.turns[0].message.thinking, text.turns[0].message.content) == ("hm", "4")
    assert called.score.value is None
    assert called.turns[0].calls[0][0].arguments == {"x": 1}
    assert called.tool_results[0].content == "6"


# ---- chat and ATIF

CHAT = {
    "id": "q1", "reward": 0.5, "model": "m", "level": 3,
    "messages": [
        {"role": "user", "content": "Book it."},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "book", "arguments": "{\"day\": 2}"}},
            {"id": "b", "type": "function", "function": {"name": "book", "arguments": "{broken"}},
        ]},
        {"role": "tool", "tool_call_id": "b", "content": "no"},
        {"role": "tool", "tool_call_id": "a", "content": "yes"},
        {"role": "assistant", "content": "Which day?"},
        {"role": "user", "content": "Tuesday."},
        {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
    ],
}  # fmt: skip
ATIF = {
    "schema_version": "ATIF-v1.4", "session_id": "s1", "agent": {"name": "terminus", "model_name": "m"},
    "final_metrics": {"total_prompt_tokens": 9, "total_cost_usd": 0.25},
    "steps": [
        {"step_id": 1, "source": "user", "message": "Fix it."},
        {
            "step_id": 2, "source": "agent", "message": "Looking.", "reasoning_content": "hm",
            "tool_calls": [{"tool_call_id": "c", "function_name": "bash", "arguments": {"command": "ls"}}],
            "observation": {"results": [{"source_call_id": "c", "content": "a.py"}]},
        },
        {"step_id": 3, "source": "agent", "message": "Fixed.", "observation": {"results": [{"content": "screen"}]}},
    ],
}  # fmt: skip


def test_message_lists_become_turns_with_replies_and_results_of_their_calls(tmp_path: Path) -> None:
    (episode,) = read(write(tmp_path / "chats.jsonl", CHAT))
    assert (episode.env_id, episode.task_id, episode.score.value) == ("chats", "q1", 0.5)
    first, second, third = episode.turns
    assert [(r.call.id, r.content) for r in first.results] == [("b", "no"), ("a", "yes")]
    assert first.message.tool_calls[1].error is not None
    assert (second.reply, third.message.content) == ("Tuesday.", "Done.")
    assert episode.info == {"mode": "eval", "model": "m", "level": 3}


def test_sessions_of_atif_have_no_reward(tmp_path: Path) -> None:
    (episode,) = read(write(tmp_path / "session.json", json.dumps(ATIF, indent=1)))
    assert (episode.env_id, episode.info["session"], episode.score.value) == ("terminus", "s1", None)
    assert episode.turns[0].message.thinking == "hm"
    assert episode.tool_results[0].content == "a.py"
    assert episode.turns[1].reply == "screen"
    assert episode.usage == {"prompt_tokens": 9.0, "dollars": 0.25}


def test_a_session_that_terminus_wrote_has_its_tokens(tmp_path: Path) -> None:
    """Written by Terminus 2 of harbor 0.26.0, against a scripted model."""
    (episode,) = read(HARBOR)
    assert (episode.env_id, episode.info["model"], episode.usage["dollars"]) == (
        "terminus-2",
        "openai/scripted",
        0.00056,
    )
    assert [len(turn.message.tool_calls) for turn in episode.turns] == [1, 2, 1, 1]
    assert "numbers.txt" in episode.tool_results[0].content
    assert "42" in str(episode.turns[1].reply)  # one screen after two calls
    assert episode.prompt_ids == [1, 2, 3]
    assert [turn.sample.token_ids for turn in episode.turns] == [[53, 54], [52, 53], [51, 52], [51, 52]]
    assert [turn.observation_ids for turn in episode.turns] == [(7, 8), (7, 8), (7, 8), ()]
    assert episode.mask == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    session = json.loads(HARBOR.read_text())
    agent = [step["metrics"] for step in session["steps"] if step["source"] == "agent"]
    for change in (
        lambda: agent[2]["prompt_token_ids"].insert(1, 9),  # the history was written anew
        lambda: agent[1].pop("logprobs"),
        lambda: agent[0].pop("completion_token_ids"),
    ):
        change()
        (without,) = read(write(tmp_path / "session.json", json.dumps(session)))
        assert (without.prompt_ids, without.completion_ids) == ([], [])
        assert without.messages == episode.messages


# ---- all


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "does not begin with|a list of messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "does not begin with a message of the system"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "not a message with one of the roles"),
        ({"messages": [*CHAT["messages"][:1], CHAT["messages"][2]]}, "a tool answers before anything was called"),  # type: ignore[index]
        ({"messages": [*CHAT["messages"][:1], *CHAT["messages"][4:5], CHAT["messages"][2]]}, "a call 'b' that was not"),  # type: ignore[index]
        ({"messages": 7}, "a conversation is a text or a list of messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "wrong type"),
        ({**ATIF, "schema_version": "ATIF-v2.0"}, "'ATIF-v2.0'; ATIF-v1 is read"),
        ({**ATIF, "steps": [{"source": "nobody"}]}, "a step's source is 'nobody'"),
        ({**ATIF, "steps": 3}, "'steps' is not a list"),
        ({"traces": [7]}, "'traces' is not a list of objects"),
        ({"traces": [{"version": 9}]}, "version 9; version 1 is read"),
        ({"version": 3, "eval": {}, "status": "success"}, "of version 3; version 2 is read"),
    ],
)  # fmt: skip
def test_a_broken_log_is_one_clear_error(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / ("log.json" if "eval" in row else "log.jsonl"), row)
    with pytest.raises(TaskError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_files_that_are_no_logs_are_named(tmp_path: Path) -> None:
    good = json.dumps(CHAT)
    for name, content, message in (
        ("a.jsonl", "{not json", "neither JSON nor JSON lines"),
        ("b.jsonl", f"{good}\n{good[:50]}\n", "line 2"),
        ("c.jsonl", f"{good}\n[1]\n", "line 2: .*a list, not an object"),
        ("d.jsonl", '{"colour": 1}', "looks like no log that is read .it has colour."),
        ("e.jsonl", "\n\n", "it has nothing"),
        ("deep.jsonl", "[" * 100_000, "line 1: neither JSON"),
        ("deep2.jsonl", f"{good}\n{'[' * 100_000}\n", "line 2"),
        ("f.eval", "PK broken", "its header"),
        ("g.parquet", "PAR1 broken", "its table"),
    ):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(TaskError, match=message):
            read(path)
    with pytest.raises(TaskError, match="cannot read"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigError, match="the formats are chat, trl"):
        read(INSPECT, "csv")
    cut = tmp_path / "cut.eval"
    cut.write_bytes(INSPECT.read_bytes()[:4_000])
    with pytest.raises(TaskError, match="its header"):
        read(cut)


def test_a_log_on_several_lines_is_a_value_or_a_list_and_long_ones_are_read_line_by_line(tmp_path: Path) -> None:
    for text in (
        json.dumps(CHAT, indent=1),
        json.dumps([CHAT, CHAT]),
        json.dumps([CHAT, CHAT], indent=2),
        f"\n{json.dumps(CHAT)}\n\n",
    ):
        assert {e.task_id for e in read(write(tmp_path / "log.json", text))} == {"q1"}
    rows = read_log(write(tmp_path / "long.jsonl", CHAT, "{broken"))
    assert next(rows).task_id == "q1"  # before the rest is read
    with pytest.raises(TaskError, match="line 2"):
        next(rows)


def test_values_that_no_column_holds_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "odd.jsonl"
    odd = {"reward": 10**400, "level": 10**30, "share": float("nan"), "text": "\ud800", "none": None}
    log.write_text(json.dumps({**CHAT, **odd}))
    (episode,) = read(log)
    assert episode.score.value is None
    assert set(episode.info) == {"mode", "model", "text"}
    out = tmp_path / "out.jsonl"
    assert command(log, "--out", out).exit_code == 0
    assert load(out).column("text").to_pylist() == ["?"]


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["import", *map(str, arguments)])


def test_imported_logs_open_in_viewer_queries_and_reports(tmp_path: Path) -> None:
    chats, atif, out = write(tmp_path / "c.jsonl", CHAT), write(tmp_path / "s.json", ATIF), tmp_path / "all.jsonl"
    result = command(INSPECT, VERIFIERS, TRL, chats, atif, "--out", out)
    assert result.exit_code == 0, result.output
    assert "15 episodes, 12 of them with a reward" in result.stdout
    episodes = load(out)
    assert len(episodes) == 15
    assert len(episodes.where("calls('double') > 0 and success == 1")) == 4
    assert "What is twice 4?" in page_html(episodes, "all")
    assert "terminus" in report_on(episodes).page_html()
    assert len({episode.id for episode in episodes}) == 15
    assert "exists" in str(command(INSPECT, "--out", out).exception)


def test_a_broken_log_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", CHAT, {"messages": 3})
    result = command(INSPECT, bad, "--out", tmp_path / "out.jsonl")
    assert isinstance(result.exception, TaskError)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]
    assert set(FORMATS) == {"chat", "trl", "inspect", "verifiers", "atif"}
