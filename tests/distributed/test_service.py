"""Promises of services and shared rates, here without Ray: tools find them, wherever they move."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from toolrl.distributed.rates import RateServer
from toolrl.distributed.service import Service, chosen_for
from toolrl.distributed.settings import PoolSettings, ServiceSettings, parse_services
from toolrl.errors import ConfigError, RetrieverFault
from toolrl.search import open_retriever
from toolrl.support.rate_limit import RateLimit
from toolrl.support.shared_rate import RATES_VARIABLE, SharedRateLimit


def served(**settings: Any) -> tuple[Service, dict[str, str]]:
    service = Service(ServiceSettings(**settings), "key")
    variables: dict[str, str] = asyncio.run(service.start())["variables"]
    return service, variables


def test_a_retriever_is_found_by_its_name_wherever_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no service 'docs' is offered here .*TOOLRL_SERVICE_DOCS is not set"):
        open_retriever("service:docs")
    settings = {"name": "docs", "settings": {"retriever": "bm25:python-docs"}}
    first, variables = served(**settings)
    assert set(variables) == {"TOOLRL_SERVICE_DOCS"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = open_retriever("service:docs")
    expected = [document.id for document in open_retriever("bm25:python-docs").search("sort a list", 3)]
    assert [document.id for document in found.search("sort a list", 3)] == expected
    asyncio.run(first.close())
    second, moved = served(**settings)
    assert moved != variables
    for name, value in moved.items():
        monkeypatch.setenv(name, value)
    assert [document.id for document in found.search("sort a list", 3)] == expected
    monkeypatch.setenv("TOOLRL_SERVICE_DOCS", next(iter(moved.values())).split()[0] + " wrong")
    with pytest.raises(ConfigError, match="refuses the API key"):
        found.search("sort a list", 3)
    asyncio.run(second.close())
    found.close()


def test_sandboxes_are_found_by_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("e2b_code_interpreter", reason="the extra `e2b` is not installed")
    service, variables = served(name="sandbox", settings={"max_sandboxes": 2})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    from toolrl.sandbox.e2b import E2BFleet, E2BSandbox, E2BSettings

    fleet = E2BFleet(E2BSettings())
    with E2BSandbox(fleet=fleet) as sandbox:
        assert sandbox.run("print(6 * 7)").stdout.strip() == "42"
    fleet.close()
    asyncio.run(service.close())


def test_a_worker_uses_the_server_on_its_node_or_they_take_turns() -> None:
    class Server:
        def __init__(self, node: str):
            self.about = {"node_id": node, "variables": {"WHERE": node}}

    servers = [Server("a"), Server("b"), Server("b")]
    assert [chosen_for(n, "a", servers)["WHERE"] for n in range(3)] == ["a"] * 3
    assert [chosen_for(n, "b", servers)["WHERE"] for n in range(3)] == ["b"] * 3
    assert [chosen_for(n, "c", servers)["WHERE"] for n in range(3)] == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], r"services must be like \{\"sandbox\""),
        ({"sandbox": 2}, "services must be like"),
        ({"two words": {"retriever": "x"}}, "must be a plain word, got 'two words'"),
        ({"wiki": {}}, "'wiki' needs a retriever"),
        ({"wiki": {"retriever": "bm25:x", "packages": True}}, "'wiki' has no setting 'packages'; it has retriever"),
        ({"sandbox": {"count": 0}}, "count of 'sandbox' must be 1 or more, got 0"),
        ({"sandbox": {"resources": {"CPU": -1}}}, "resources of 'sandbox': 'CPU' must be a number from 0, got -1"),
    ],
)
def test_settings_of_services_are_checked(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_services(given)


def test_what_a_pool_takes_counts_engines_and_services() -> None:
    services = {"sandbox": {"count": 2, "resources": {"sandbox": 1}}, "wiki": {"retriever": "bm25:x"}}
    settings = PoolSettings.of(workers=3, engines=1, engine_resources={"GPU": 1}, services=services)
    assert list(settings.taken()) == [
        ("worker", 3, {"CPU": 1}),
        ("engine", 1, {"GPU": 1}),
        ("sandbox service", 2, {"sandbox": 1}),
        ("wiki service", 1, {"CPU": 1}),
    ]


# ---- rates


def test_two_machines_share_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there", "third"):
        (tmp_path / name).mkdir()
    limits = [SharedRateLimit(RateLimit("judge", 1.0, folder=tmp_path / name)) for name in ("here", "there")]
    assert [limit.reserve(9.0) for limit in limits] == [0.0, 0.0]  # each has its own
    server = RateServer(folder=tmp_path / "third")
    monkeypatch.setenv(RATES_VARIABLE, server.address)
    waits = [limit.reserve(9.0) for limit in (*limits, *limits)]
    assert [round(wait or 0.0) for wait in waits] == [0, 1, 2, 3]
    assert limits[0].reserve(1.0) is None
    limits[0].hold(100.0)
    assert limits[1].held_seconds() == pytest.approx(100.0, abs=5.0)
    url, key = server.address.split()
    for wrong, status in (("", 401), ("x" * len(key), 401)):
        request = urllib.request.Request(f"{url}/reserve", b"{}", {"Authorization": f"Bearer {wrong}"})
        with pytest.raises(urllib.error.HTTPError, match=str(status)):
            urllib.request.urlopen(request)
    bad = json.dumps({"name": "x", "per_second": -1, "burst": 1}).encode()
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(urllib.request.Request(f"{url}/reserve", bad, {"Authorization": f"Bearer {key}"}))
    server.close()
    with pytest.raises(RetrieverFault, match="the rate limit 'judge' cannot be asked for"):
        limits[0].reserve(1.0)
