"""Promises of the local page: who has access, and what each page shows."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.view.conftest import HARMFUL
from tests.view.pages import TOKEN, Page, client_of
from toolrl import TaskError, Trajectory, TrajectoryWriter
from toolrl.view.server import make_app


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    with client_of(run) as client:
        yield client


# ---- access


@pytest.mark.parametrize(
    "path", ["/", "/run?run=first", "/episode?id=train/s/1/0", "/nothing", "/?token=", "/?token=wrong"]
)
def test_requests_without_the_token_are_refused(run: Path, path: str) -> None:
    client = TestClient(make_app([run], TOKEN), base_url="http://127.0.0.1:8000")
    reply = client.get(path)
    assert reply.status_code == 403
    assert "PythonMath" not in reply.text
    assert "set-cookie" not in reply.headers


def test_the_token_gives_a_cookie_that_scripts_and_other_sites_cannot_use(run: Path) -> None:
    client = TestClient(make_app([run], TOKEN), base_url="http://127.0.0.1:8000")
    cookie = client.get(f"/?token={TOKEN}").headers["set-cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1.evil.example:8000", ""]
)
@pytest.mark.parametrize("path", ["/", f"/?token={TOKEN}"])
def test_a_foreign_host_is_refused(client: TestClient, host: str, path: str) -> None:
    assert client.get(path, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:8001", "https://127.0.0.1:8000"])
def test_another_origin_is_refused(client: TestClient, origin: str) -> None:
    assert client.get("/", headers={"Origin": origin}).status_code == 403
    assert client.get("/", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


def test_other_sites_cannot_load_pages_but_may_link_to_them(client: TestClient) -> None:
    loads = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/", headers=loads).status_code == 403
    frame = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    assert client.get("/", headers=frame).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize("path", ["/", "/run?run=first", "/nothing", "/episode?id=none", "/?token=wrong"])
def test_every_response_has_the_security_headers(client: TestClient, path: str) -> None:
    if "wrong" in path:
        client.cookies.clear()
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers


# ---- pages


def test_foreign_text_adds_no_element_to_any_page(harmful: Trajectory, write_run: Callable[..., Path]) -> None:
    twin = dataclasses.replace(harmful, id=f"2{HARMFUL}")
    with client_of(write_run("harmful", [harmful, twin])) as client:
        table = Page(client.get("/run").text)
        episodes = [link for link in table.links if link.startswith("/episode")]
        episode = client.get(episodes[-1]).text
        group = next(link for link in Page(episode).links if link.startswith("/group"))
        cards = client.get(group).text
        diff = next(link for link in Page(cards).links if link.startswith("/diff"))
        pages = {"/": client.get("/").text, "/run": client.get("/run").text, episodes[-1]: episode, group: cards}
        pages |= {diff: client.get(diff).text, "/compare": client.get("/compare?aw=step==1&bw=step==2").text}
        pages["/run?where"] = client.get("/run", params={"where": "<script>owned(1)</script>"}).text
        pages["/run?run"] = client.get("/run", params={"run": "<script>owned(1)</script>"}).text
        for path, html in pages.items():
            page = Page(html)
            assert not page.handlers, path
            assert page.scripts == 1, path
            assert not page.tags & {"img", "iframe", "base", "animate", "object", "embed"}, path
            assert all(link.startswith(("/", "data:,", "#")) for link in page.links), path
        assert "<script>owned(1)</script>" in Page(episode).text


def test_the_table_is_paged_on_the_server(client: TestClient) -> None:
    seen: list[str] = []
    for number in (1, 2, 3):
        page = Page(client.get(f"/run?run=first&sort=oldest&page={number}").text)
        seen += [link for link in page.links if link.startswith("/episode")]
    assert len(seen) == len(set(seen)) == 120
    assert "page 3 of 3" in Page(client.get("/run?page=99").text).text


def test_the_table_is_filtered_and_sorted(client: TestClient) -> None:
    text = Page(client.get("/run", params={"where": "success == 1 and step >= 10", "sort": "-step"}).text).text
    assert "20 episodes of 120" in text
    assert text.index("What is 14 + 2?") < text.index("What is 10 + 2?")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("sucess == 0", "did you mean success"),
        ("success ==", "cannot parse the query"),
        ("calls(", "cannot parse"),
        ("__import__('os')", "unknown function"),
    ],
)
def test_a_mistake_in_a_query_is_explained(client: TestClient, where: str, words: str) -> None:
    reply = client.get("/run", params={"where": where})
    assert words in Page(reply.text).text
    assert f'value="{where}"'.replace("'", "&#39;") in reply.text


def test_a_mistake_in_the_order_or_the_page_is_explained(client: TestClient) -> None:
    assert "cannot sort by" in client.get("/run?sort=nothing").text
    assert "page must be a whole number" in client.get("/run?page=-1").text
    assert "has no episode" in client.get("/episode?id=none").text


def test_an_episode_links_to_its_neighbours_in_the_table(client: TestClient) -> None:
    asked = {"id": "train/s/5/1", "where": "success == 1", "sort": "oldest"}
    page = Page(client.get("/episode", params=asked).text)
    assert "id=train%2Fs%2F4%2F7&" in page.relations["prev"]
    assert "id=train%2Fs%2F5%2F3&" in page.relations["next"]
    assert "where=success" in page.relations["next"]
    assert "21 of 60" in page.text


def test_a_deep_link_opens_an_episode_that_does_not_match_the_query(client: TestClient) -> None:
    page = Page(client.get("/episode", params={"id": "train/s/5/0", "where": "success == 1"}).text)
    assert "What is 5 + 2?" in page.text
    assert "next" not in page.relations


def test_pieces_of_a_long_text_join_to_the_whole(
    play: Callable[..., Trajectory], write_run: Callable[..., Path]
) -> None:
    output = "".join(f"line {number}\n" for number in range(60_000))
    with client_of(write_run("long", [play(output=output)])) as client:
        page = Page(client.get("/episode?id=train/s/1/0").text)
        found = next(text for text in page.blocks if text.startswith("line 0\n"))
        found += page.blocks[page.blocks.index(found) + 1]
        while page.more:
            page = Page(client.get(page.more).text)
            found += page.blocks[0]
        assert found == output


def test_tokens_beyond_the_first_have_pages_of_their_own(
    play: Callable[..., Trajectory], write_run: Callable[..., Path]
) -> None:
    with client_of(write_run("long", [play(prompt_ids=list(range(9_000)))])) as client:
        page = Page(client.get("/tokens?id=train/s/1/0").text)
        assert "Tokens 0 to 4,000 of 9,008" in page.text
        assert "Tokens 8,000 to 9,008 of 9,008" in Page(client.get("/tokens?id=train/s/1/0&start=8000").text).text


def test_a_group_shows_all_rollouts_with_rewards_and_advantages(client: TestClient) -> None:
    text = Page(client.get("/group", params={"env": "toolrl/PythonMath-v0", "task": "sum-7"}).text).text
    assert "8 rollouts of group 7/0/0" in text
    assert text.count("advantage +0.94") == 4
    assert text.count("advantage \N{MINUS SIGN}0.94") == 4


def test_two_runs_are_compared_on_the_tasks_that_both_have(
    run: Path, play: Callable[..., Trajectory], write_run: Callable[..., Path]
) -> None:
    other = write_run("second", [play(f"x/{n}", task_id=f"sum-{n}", reward=float(n != 2)) for n in (1, 2, 99)])
    with client_of(run, other) as client:
        page = Page(client.get("/compare?a=first&b=second").text)
        # Tasks, success of A and B, their difference and its interval, p, tasks on which B is better, and A.
        cells = ("2", "50%", "50%", "0", "\N{MINUS SIGN}1.00 to +1.00", "1.000", "1", "1")
        assert f"all{''.join(cells)}" in page.text
        diff = next(link for link in page.links if link.startswith("/diff"))
        assert "The completions are identical" in Page(client.get(diff).text).text
        assert "no task was played in both" in client.get("/compare?a=first&b=second&bw=step==77").text


def test_two_episodes_are_compared_word_by_word(
    play: Callable[..., Trajectory], write_run: Callable[..., Path]
) -> None:
    with client_of(write_run("pair", [play("a"), play("b", said="<answer>5</answer>")])) as client:
        html = client.get("/diff?a=pair&a_id=a&b=pair&b_id=b").text
        assert "<del>4</del>" in html
        assert "<ins>5</ins>" in html


# ---- runs in every state


def test_a_run_that_continues_is_followed(run: Path, client: TestClient, play: Callable[..., Trajectory]) -> None:
    page = Page(client.get("/run").text)
    assert client.get("/run", params={"known": page.version}).status_code == 304
    with (run / "trajectories.jsonl").open("a") as file:
        file.write('{"torn": ')
    assert "120 episodes" in Page(client.get("/run").text).text
    with TrajectoryWriter(run / "trajectories.jsonl") as writer:
        writer.write(play("train/s/99/0", question="What is new?"))
    reply = client.get("/run", params={"known": page.version})
    assert reply.status_code == 200
    assert "121 episodes" in Page(reply.text).text
    assert "What is new?" in Page(reply.text).text


@pytest.mark.filterwarnings("ignore:.*cannot be read as trajectories:UserWarning")
def test_broken_lines_are_skipped_and_counted(run: Path) -> None:
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(b'{"id": "\xff\xfe"}\nnot JSON\n')
    with client_of(run) as client:
        text = Page(client.get("/run").text).text
        assert "120 episodes" in text
        assert "2 broken lines skipped" in text


@pytest.mark.parametrize("broken", [b"\xff\xfe\x80", b"\\ud83d"])
def test_broken_characters_are_visible(
    play: Callable[..., Trajectory], write_run: Callable[..., Path], broken: bytes
) -> None:
    folder = write_run("broken", [play(output="BROKEN", question="a question")])
    path = folder / "trajectories.jsonl"
    path.write_bytes(path.read_bytes().replace(b"BROKEN", b"before " + broken + b" after"))
    with client_of(folder) as client:
        assert re.search(r"before \S+ after", Page(client.get("/episode?id=train/s/1/0").text).text)


def test_a_lone_surrogate_in_a_question_leaves_its_run_readable(
    play: Callable[..., Trajectory], write_run: Callable[..., Path]
) -> None:
    folder = write_run("broken", [play(question="BROKEN"), play("other")])
    path = folder / "trajectories.jsonl"
    path.write_bytes(path.read_bytes().replace(b"BROKEN", b"before \\ud83d after"))
    with client_of(folder) as client:
        assert "2 episodes" in Page(client.get("/run").text).text


def test_a_run_without_episodes_is_shown(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("max_steps: 80\n")
    with client_of(tmp_path) as client:
        assert "No episodes yet" in client.get("/").text
        assert "No episodes yet" in client.get("/run").text
        assert "has no episodes yet" in client.get("/compare").text
        (tmp_path / "trajectories.jsonl").touch()
        assert "No episodes yet" in client.get("/run").text


def test_a_file_of_another_version_is_explained(run: Path) -> None:
    path = run / "trajectories.jsonl"
    path.write_text(path.read_text().replace('"schema_version": 6', '"schema_version": 99'))
    with client_of(run) as client:
        reply = client.get("/run")
        assert reply.status_code == 400
        assert "schema_version is 99" in reply.text


def test_a_folder_of_runs_shows_each(
    run: Path, write_run: Callable[..., Path], play: Callable[..., Trajectory]
) -> None:
    write_run("second", [play()])
    with client_of(run.parent) as client:
        text = Page(client.get("/").text).text
        assert "first" in text
        assert "second" in text


def test_a_file_of_trajectories_is_a_run_too(run: Path) -> None:
    with client_of(run / "trajectories.jsonl") as client:
        assert "120 episodes" in Page(client.get("/run").text).text
        assert client.get("/").text.count(">first</a>") == 1


def test_a_folder_without_runs_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there is no run at"):
        make_app([tmp_path], TOKEN)


def test_an_unknown_run_is_named_together_with_those_that_exist(client: TestClient) -> None:
    reply = client.get("/run?run=none")
    assert (reply.status_code, "the runs are first" in reply.text) == (400, True)


def test_curves_are_drawn_from_the_metrics(client: TestClient) -> None:
    html: Any = client.get("/run").text
    assert html.count("<polyline points") == 2
    assert client.get("/metrics").text.count("<polyline points") == 2
    assert "step 5: 0.50" in html
