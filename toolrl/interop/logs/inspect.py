"""Logs of Inspect (`.eval`, and `.json` as it writes it): version 2, whose samples hold messages and scores."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow

from toolrl.chat.wire import from_wire
from toolrl.interop.logs.base import Record, Said, listed, number_of, plain_facts
from toolrl.types import Score, StopReason, ToolFailure

_ZSTD = 93  # of zip's compression methods; Python's zipfile reads it from 3.14 on
_ATTACHMENT = "attachment://"
_LIMITS = {"message": StopReason.TURNS, "turn": StopReason.TURNS}
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}  # Inspect's correct, incorrect, partial, no answer


def open_inspect(path: Path) -> Iterator[Record]:
    """The samples of a log.

    Raises:
        ValueError: It is no such log, or of another version.
    """
    if path.suffix == ".json":
        with path.open(encoding="utf-8") as file:
            log = json.load(file)
        header, samples = log, listed(log.get("samples") or [], "'samples'")
    else:
        archive = zipfile.ZipFile(path)
        names = sorted(name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json"))
        begun = "header.json" if "header.json" in archive.namelist() else "_journal/start.json"
        header, samples = _member(archive, begun), (_member(archive, name) for name in names)
    if header.get("version") != 2:
        raise ValueError(f"it is of version {header.get('version')!r}; version 2 is read")
    about = header.get("eval") or {}
    return (_record(sample, about) for sample in samples)


def _member(archive: zipfile.ZipFile, name: str) -> Any:
    """A JSON file of a zip file."""
    about = archive.getinfo(name)
    if about.compress_type != _ZSTD or hasattr(zipfile, "ZIP_ZSTANDARD"):
        return json.loads(archive.read(name))
    assert archive.fp is not None
    archive.fp.seek(about.header_offset)
    header = archive.fp.read(30)  # of which the last four bytes are the lengths of the name and of the extra field
    archive.fp.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    packed = archive.fp.read(about.compress_size)
    return json.loads(pyarrow.decompress(packed, decompressed_size=about.file_size, codec="zstd").to_pybytes())


def _record(sample: Mapping[str, Any], about: Mapping[str, Any]) -> Record:
    scores = {str(name): score for name, score in (sample.get("scores") or {}).items() if isinstance(score, Mapping)}
    parts = {name: value for name, score in scores.items() if (value := _value(score.get("value"))) is not None}
    first: Mapping[str, Any] = next(iter(scores.values()), {})
    error, limit = sample.get("error"), sample.get("limit")
    value = parts.get(next(iter(scores), ""))
    if error or value is None:
        score = Score(None, {}, reason="" if error else "the log has no reward")
    else:
        answer = first.get("answer")
        score = Score(value, {"correct": value, **parts}, None if answer is None else str(answer), _line(first))
    stop = StopReason.ANSWER
    if error:
        stop = StopReason.FAULT
    elif isinstance(limit, Mapping):
        stop = _LIMITS.get(str(limit.get("type")), StopReason.TOKENS)
    usage: dict[str, float] = {}
    for amounts in (sample.get("model_usage") or {}).values():
        for name in ("input_tokens", "output_tokens", "total_cost"):
            usage[name] = usage.get(name, 0.0) + (number_of(amounts.get(name)) or 0.0)
    facts = {"model": about.get("model"), "epoch": sample.get("epoch"), **(sample.get("metadata") or {})}
    return Record(
        env_id=str(about.get("task") or "inspect"),
        task_id=str(sample.get("id", "")),
        said=[_said(wire) for wire in listed(_attached(sample.get("messages") or [], sample), "'messages'")],
        score=score,
        stop=stop,
        error=str(error.get("message") or "error") if isinstance(error, Mapping) else str(error or ""),
        seconds=number_of(sample.get("total_time")) or 0.0,
        info={"mode": "eval", **plain_facts(facts)},
        usage={name: amount for name, amount in usage.items() if amount},
    )


def _attached(value: Any, sample: Mapping[str, Any]) -> Any:
    """A value in which long texts stand again where the log refers to its attachments."""
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        return (sample.get("attachments") or {}).get(value.removeprefix(_ATTACHMENT), value)
    if isinstance(value, list):
        return [_attached(item, sample) for item in value]
    return {name: _attached(item, sample) for name, item in value.items()} if isinstance(value, Mapping) else value


def _said(wire: Mapping[str, Any]) -> Said:
    """A message; its calls have a `function` and `arguments`, without the form of chat APIs around them."""
    calls = [
        {"id": call.get("id"), "function": {"name": call.get("function"), "arguments": call.get("arguments")}}
        for call in wire.get("tool_calls") or ()
    ]
    error = wire.get("error") if wire.get("role") == "tool" else None
    message = from_wire({**wire, "tool_calls": calls, **({"content": error.get("message")} if error else {})})
    failure = None
    if error:
        failure = ToolFailure.TIMEOUT if error.get("type") == "timeout" else ToolFailure.RAISED
    return Said(message, failure)


def _value(value: Any) -> float | None:
    return _VALUES.get(value) if isinstance(value, str) else number_of(value)


def _line(score: Mapping[str, Any]) -> str:
    return " ".join(str(score.get("explanation") or "").split())[:300]
