"""`toolrl doctor` says which layers hold, what missing ones leave open, and how to get them."""

from __future__ import annotations

import functools
import json
import sys

import pytest
from typer.testing import CliRunner

from toolrl.cli import app
from toolrl.sandbox.local import doctor
from toolrl.sandbox.local.launcher import Zygote
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers


def run_doctor(monkeypatch: pytest.MonkeyPatch, *options: str, without: tuple[str, ...] = ()) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "Zygote", functools.partial(Zygote, without=without))
    result = CliRunner().invoke(app, ["doctor", *options])
    return result.exit_code, result.stdout


def test_it_reports_the_layers_that_hold_in_a_sandbox(monkeypatch, zygote_at):
    active = zygote_at("full").active
    status, text = run_doctor(monkeypatch, "--json")
    report = json.loads(text)
    assert (status, report["level"], report["usable"]) == (0, "full", True)
    assert {finding["layer"]: finding["active"] for finding in report["findings"]} == active.holds


@pytest.mark.parametrize(
    ("without", "level", "status"),
    [
        (("landlock",), "no-landlock", 0),
        (("namespaces",), "no-userns", 0),
        (("seccomp",), "none", 1),
        (("namespaces", "landlock", "seccomp", "network"), "none", 1),
    ],
)
def test_a_missing_layer_is_reported_with_its_cause_cost_and_remedy(monkeypatch, without, level, status):
    found, text = run_doctor(monkeypatch, without=without)
    assert found == status
    assert text.startswith(f"isolation level: {level}\n")
    words = " ".join(text.split())
    for name, layer in LAYERS.items():
        absent = f"absent {name} {layer.purpose} why: switched off open: {layer.open_without} get it: {layer.remedy}"
        assert (absent in words) == (name in without)


def test_a_level_below_full_says_what_that_means():
    holds = dict.fromkeys(LAYERS, True)
    summaries = [
        doctor.diagnose(ActiveLayers({**holds, layer: False}, {})).summary for layer in ("user", "landlock", "seccomp")
    ]
    assert "in force" in summaries[0]
    assert 'isolation="full" refuses' in summaries[1]
    assert 'only with isolation="none"' in summaries[2]


def test_where_no_sandbox_runs_it_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    status, text = run_doctor(monkeypatch)
    assert status == 1
    assert "No sandbox runs here" in text
    assert "/bin/false" in text
