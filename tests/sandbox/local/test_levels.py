"""A sandbox's isolation is tested, reported, and never lower than requested."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox import LocalSandbox
from toolrl.sandbox.local import launcher, levels
from toolrl.sandbox.local.launcher import Zygote
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers, accept
from toolrl.tools import python_tool

LEVELS = ["full", "no-landlock", "no-userns", "none"]


def found(*missing: str) -> ActiveLayers:
    return ActiveLayers({name: name not in missing for name in LAYERS}, {"landlock": "too old"})


@pytest.mark.parametrize(
    ("missing", "level"),
    [
        ((), "full"),
        (("user",), "full"),
        (("landlock",), "no-landlock"),
        (("namespaces",), "no-userns"),
        (("namespaces", "landlock"), "none"),
        (("namespaces", "signals"), "none"),
        (("seccomp",), "none"),
        (("network",), "none"),
    ],
)
def test_a_level_is_named_by_the_layers_that_hold(missing, level):
    assert found(*missing).level == level


@pytest.mark.parametrize("layer", ["namespaces", "landlock", "seccomp"])
def test_a_layer_that_is_switched_off_is_reported_as_missing(layer):
    zygote = Zygote(without=[layer])
    assert not zygote.active.holds[layer]
    assert zygote.active.problems[layer] == "switched off"
    zygote.close()


def test_a_sandbox_knows_its_level(level, sandbox):
    assert sandbox.level == level


@pytest.mark.parametrize(
    ("isolation", "accepted"),
    [
        ("full", ["full"]),
        ("no-landlock", ["full", "no-landlock"]),
        ("no-userns", ["full", "no-userns"]),
        ("best_effort", ["full", "no-landlock", "no-userns"]),
        ("none", LEVELS),
    ],
)
@pytest.mark.filterwarnings("ignore:sandboxes run at:RuntimeWarning")
def test_less_isolation_than_requested_is_refused(level, zygote, isolation, accepted):
    if level in accepted:
        LocalSandbox(isolation=isolation, zygote=lambda: zygote).close()
    else:
        with pytest.raises(ConfigError, match=f"level '{level}', which isolation='{isolation}' does not accept"):
            LocalSandbox(isolation=isolation, zygote=lambda: zygote)


def test_a_refusal_says_what_is_missing_why_and_how_to_get_it():
    with pytest.raises(ConfigError) as refusal:
        accept(found("landlock"), "full")
    assert "Missing for 'full': landlock (too old); to get it: Linux 5.13 or newer" in str(refusal.value)
    assert "namespaces" not in str(refusal.value)


def test_best_effort_warns_once_and_only_below_full(recwarn):
    levels.warn_once.cache_clear()
    for _ in range(3):
        accept(found("landlock"), "best_effort")
        accept(found("landlock"), "no-landlock")
        accept(found(), "best_effort")
    assert ["landlock (too old)" in str(warning.message) for warning in recwarn] == [True]


def test_an_unknown_isolation_is_refused():
    with pytest.raises(ConfigError, match=r"isolation must be one of full, .*, got 'some'"):
        LocalSandbox(isolation="some")


def test_other_systems_than_linux_are_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="Linux only"):
        LocalSandbox(isolation="none")


def test_the_python_tool_passes_the_required_isolation_on():
    python = python_tool(sandbox=partial(LocalSandbox, isolation="some"))
    with pytest.raises(ConfigError, match="isolation must be one of"):
        python.resources["sandbox"].open()


def test_a_worker_in_which_a_layer_fails_runs_no_code(monkeypatch):
    failing = """
import resource
active = zygote.probes.active_layers
rehearses = lambda: resource.getrlimit(resource.RLIMIT_NPROC)[0] == zygote.REHEARSAL_LIMITS["processes"]
zygote.probes.active_layers = lambda trainer, **options: dict(active(trainer, **options), landlock=rehearses())
zygote.main()"""
    monkeypatch.setattr(launcher, "START_CODE", launcher.START_CODE.replace("\nzygote.main()", failing))
    zygote = Zygote()
    sandbox = LocalSandbox(isolation="none", zygote=lambda: zygote)
    with pytest.raises(SandboxFault, match="the layers of isolation have changed"):
        sandbox.run("1")
    sandbox.close()
    zygote.close()


def test_the_default_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("TOOLRL_ISOLATION", "some")
    with pytest.raises(ConfigError, match="got 'some'"):
        LocalSandbox()
    LocalSandbox(isolation="none").close()
    monkeypatch.setenv("TOOLRL_ISOLATION", "none")
    LocalSandbox().close()


def test_more_sandboxes_can_be_open_than_the_usual_limit_on_open_files_allows():
    script = """
import resource
from toolrl.sandbox import LocalSandbox
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
opened = [LocalSandbox() for _ in range(30)]
assert all(sandbox.run("1").value == "1" for sandbox in opened)
for sandbox in opened:
    sandbox.close()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
