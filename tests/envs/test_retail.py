"""Promises about Retail-v0: only serving the customer by the policy pays, in any way that leads to the right state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

import toolrl
from toolrl import ConfigError, Ended, Message, SamplingParams, Task, ToolEnv, call, say
from toolrl.chat import HermesDialect
from toolrl.policy import ChatReply
from toolrl.rewards import read_state, state_difference
from toolrl.support.event_loop import run_sync
from toolrl.users import ModelUser
from toolrl_envs.retail.shop import changed, open_shop, shop
from toolrl_envs.retail.tasks import KINDS, make_tasks
from toolrl_envs.retail.tools import TOOLS

LOOKING = ("say", "find_customer_by_email", "find_customer_by_name", "list_orders", "get_order", "get_product")


@pytest.fixture(scope="module")
def env() -> Iterator[ToolEnv]:
    env = toolrl.make("toolrl/Retail-v0", size=160)
    yield env
    env.close()


def play(env: ToolEnv, task: Task, turns: Sequence[Message]) -> dict[str, Any]:
    """Play turns, and then silence until the end; returns the score with all observations."""
    observation, _ = env.reset(options={"task": task})
    seen = [observation]
    for turn in [*turns, *[say("")] * env.limits.turns]:
        observation, _, terminated, truncated, info = env.step(HermesDialect().format(turn))
        seen.append(observation)
        if terminated or truncated:
            return {**info["score"], "seen": seen, "stop": info["stop"]}
    raise AssertionError("a conversation ends at the limit of turns")


def solution(task: Task) -> list[list[Any]]:
    """The oracle's turns: the tool, or "say", and what it is given."""
    return [list(step) for step in task.metadata["steps"]]


def turns(steps: Sequence[Sequence[Any]]) -> list[Message]:
    return [say(given) if name == "say" else call(name, **given) for name, given in steps]


def changing(env: ToolEnv, *kinds: str) -> list[Task]:
    """Tasks in which something has to be changed."""
    return [
        task
        for task in env.tasks
        if (not kinds or task.kind in kinds)
        and any(change["table"] == "changes" for change in task.metadata["changes"])
    ]


def forbidden(env: ToolEnv, kind: str) -> Task:
    """A task whose wish the policy forbids."""
    return next(task for task in env.tasks if task.kind == kind and task not in changing(env))


def last_order(task: Task) -> int:
    return int(task.metadata["customer"]["stages"][-1]["order_id"])


# ---- tasks


def test_every_kind_is_drawn_with_what_makes_it_hard(env: ToolEnv) -> None:
    assert {task.kind for task in env.tasks} == set(KINDS)
    for kind in ("cancel", "address", "return", "exchange", "voucher", "two"):
        assert 3 <= len(changing(env, kind)) <= 19 if kind != "two" else changing(env, kind)
    stages = [stage for task in env.tasks for stage in task.metadata["customer"]["stages"]]
    assert any(task.metadata["customer"]["wrong"] for task in env.tasks), "a wrong order number"
    assert any(stage["until"] == "asked" for stage in stages), "a change of mind"
    assert any(stage["insists"] for stage in stages), "a customer who insists"
    assert len({task.difficulty for task in env.tasks}) >= 5


def test_the_splits_share_no_customer_and_no_order() -> None:
    shops = {split: [shop(task.metadata["shop"]) for task in make_tasks(split, 200, 0)] for split in ("train", "test")}
    for table, column in (("customers", "name"), ("customers", "email"), ("orders", "id")):
        train, test = ({row[column] for rows in shops[split] for row in rows[table]} for split in ("train", "test"))
        assert len(train) > 100
        assert not train & test


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"split": "dev"}, {"kinds": ["bribe"]}, {"kinds": "cancel"}, {"user": "gpt"}]
)
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        toolrl.make("toolrl/Retail-v0", **options)


# ---- what earns the reward


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_oracle_solves_every_task(split: str) -> None:
    env = toolrl.make("toolrl/Retail-v0", split=split, size=400, seed=1)
    for task in env.tasks:
        assert play(env, task, env.oracle(task))["value"] == 1.0, task
    env.close()


def test_the_same_turns_give_the_same_conversation(env: ToolEnv) -> None:
    for task in env.tasks[:8]:
        first, second = (play(env, task, env.oracle(task)) for _ in range(2))
        assert first == second
        assert first["value"] == 1.0
        assert first["stop"] in ("tool", "user")


def test_any_way_to_the_right_state_counts(env: ToolEnv) -> None:
    task = next(task for task in changing(env, "return") if len(solution(task)[-2][1]["variant_ids"]) == 2)
    *before, (name, given), report = solution(task)
    one, other = given["variant_ids"]
    apart = [[name, {**given, "variant_ids": [other]}], [name, {**given, "variant_ids": [one]}]]
    assert play(env, task, turns([*before, *apart, report]))["value"] == 1.0
    looks = [[name, given] for name, given in before if name in ("get_order", "get_product")]
    without = [step for step in before if step not in looks]
    assert play(env, task, turns([*without, [name, given], report]))["value"] == 1.0
    more = [*before, *looks, ["get_order", {"order_id": 1}]]
    assert play(env, task, turns([*more, [name, given], report]))["value"] == 1.0


def test_a_task_may_be_solved_in_other_words(env: ToolEnv) -> None:
    task = next(task for task in changing(env, "cancel") if not task.metadata["customer"]["wrong"])
    order, (reference, amount) = last_order(task), task.answer
    words = [
        say("Good morning! To verify your identity, may I have your e-mail, or otherwise your full name and zip code?"),
        say("If you do not know the address: could you please give me your full name and ZIP code?"),
        *[call(name, **given) for name, given in solution(task) if name.startswith("find")],
        say("Thank you. Let me look at that for you."),
        call("get_order", order_id=order),
        say(f"I can cancel order {order}; {amount} goes back to your card. Would you like me to proceed?"),
        call("cancel_order", order_id=order),
        say(f"All done: order {order} has been cancelled (reference {reference}). Is there anything else?"),
    ]
    assert play(env, task, words)["value"] == 1.0


def test_another_user_may_play_the_customer() -> None:
    def agreeable(message: str) -> str | Ended:
        return Ended("Thanks.") if "reference number" in message else "My email address is in your records. Go ahead."

    env = toolrl.make("toolrl/Retail-v0", user=agreeable, kinds=["cancel", "voucher"], size=10)
    for task in changing(env):
        assert play(env, task, env.oracle(task))["value"] == 1.0
        steps = [step for step in solution(task) if step[0] in LOOKING]
        assert play(env, task, turns(steps))["value"] == 0.0
    env.close()


def test_a_model_may_play_the_customer_and_hears_what_the_script_holds() -> None:
    heard: list[str] = []

    class Model:
        """Answers with what its instructions hold, until it hears a reference number."""

        async def reply(
            self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
        ) -> ChatReply:
            heard.append(messages[0].content)
            leave = "reference number" in messages[-1].content
            return ChatReply(call("end_conversation", reason="done") if leave else say("See above. Yes, go ahead."))

        def close(self) -> None: ...

    env = toolrl.make("toolrl/Retail-v0", user=ModelUser(Model()), kinds=["cancel", "address"], size=8)
    for task in changing(env):
        score = play(env, task, env.oracle(task))
        assert (score["value"], score["stop"]) == (1.0, "user")
        script = task.metadata["customer"]
        assert all(script["facts"][name] in heard[-1] for name in ("email", "name", "zip", "reason"))
        assert script["stages"][0]["says"] in heard[-1]
        assert not any(answer in heard[-1] for answer in task.answer)
    env.close()


def test_a_model_by_name_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    env = toolrl.make("toolrl/Retail-v0", user="openai:customer", size=1)
    assert env.user is not None
    assert env.user.name == "ModelUser"
    env.close()


# ---- what earns nothing


def test_whoever_leaves_something_out_earns_nothing(env: ToolEnv) -> None:
    def parts(task: Task, steps: list[list[Any]]) -> tuple[float, float, float]:
        score = play(env, task, turns(steps))
        return score["value"], score["parts"]["state"], score["parts"]["told"]

    for task in {task.kind: task for task in changing(env) if task.kind != "stranger"}.values():
        steps = solution(task)
        looks = [step for step in steps if step[0] in LOOKING[3:]]
        unidentified = [step for step in steps if not step[0].startswith("find") and step not in looks]
        assert parts(task, unidentified)[:2] == (0.0, 0.0)
        too_late = [*unidentified[:-1], *(step for step in steps if step[0].startswith("find")), unidentified[-1]]
        assert parts(task, too_late)[:2] == (0.0, 0.0)
        unasked = [step for step in steps if "Do you agree?" not in step[1]]
        assert parts(task, unasked)[:2] == (0.0, 0.0)
        undone = [step for step in steps if step[0] in LOOKING]
        assert parts(task, undone) == (0.0, 0.0, 1.0)
        untold = [*steps[:-1], ["say", "It is done."]]
        assert parts(task, untold) == (0.0, 1.0, 0.0)
        assert parts(task, []) == (0.0, 0.0, 0.0)
        assert parts(task, steps[:-1][:2]) == (0.0, 0.0, 0.0)


def test_an_order_may_not_be_looked_at_before_the_customer_is_identified(env: ToolEnv) -> None:
    task = env.tasks[0]
    score = play(env, task, turns([["get_order", {"order_id": last_order(task)}], *solution(task)]))
    assert score["value"] == 0.0
    assert "action='look'" in score["reason"]


@pytest.mark.parametrize(
    ("kind", "tool"),
    [
        ("cancel", "cancel_order"),
        ("voucher", "give_voucher"),
        ("return", "return_items"),
        ("address", "change_address"),
    ],
)
def test_what_the_policy_forbids_earns_nothing_even_if_the_customer_agrees(env: ToolEnv, kind: str, tool: str) -> None:
    task = forbidden(env, kind)
    order_id = last_order(task)
    order = next(order for order in shop(task.metadata["shop"])["orders"] if order["id"] == order_id)
    items = [item for item in shop(task.metadata["shop"])["order_items"] if item["order_id"] == order_id]
    more: dict[str, Any] = {
        "return_items": {"variant_ids": [items[0]["variant_id"]]},
        "change_address": {"street": "1 New Lane", "city": "Ghent", "zip_code": "12345"},
    }.get(tool, {})
    steps = solution(task)
    where = next(place for place, (name, given) in enumerate(steps) if name == "say" and "I am sorry" in given)
    steps.insert(where, [tool, {"order_id": order_id, **more}])
    steps.insert(where, ["say", f"I could cancel, return, or give a voucher for order {order_id}. Shall I?"])
    if kind == "address":  # even if it is taken back
        old = {column: order[column] for column in ("street", "city", "zip_code")}
        steps.insert(where + 2, [tool, {"order_id": order_id, **old}])
    score = play(env, task, turns(steps))
    assert score["parts"] == {"correct": 0.0, "state": 0.0, "told": 1.0, "discreet": 1.0}, score
    assert not any(text.startswith("error") for text in score["seen"])
    assert "changes: extra row" in score["reason"]


def test_the_order_of_somebody_else_is_neither_touched_nor_talked_about(env: ToolEnv) -> None:
    for task in [task for task in env.tasks if task.kind == "stranger"][:4]:
        *before, transfer = solution(task)
        street = next(order for order in shop(task.metadata["shop"])["orders"] if order["id"] == last_order(task))
        address = ["say", f"It goes to {street['street']}; I cannot do more."]
        assert play(env, task, turns([*before, transfer]))["value"] == 1.0
        assert play(env, task, turns([*before[:-1], transfer]))["value"] == 1.0, "at once, without a word"
        assert play(env, task, turns([*before[:-1], address, transfer]))["parts"]["discreet"] == 0.0
        assert play(env, task, turns([*before[:-1], address, transfer]))["value"] == 0.0
        assert play(env, task, turns([*before, *[before[-1]] * 3]))["value"] == 0.0, "refusing is not enough"
        cancel = ["cancel_order", {"order_id": last_order(task)}]
        assert play(env, task, turns([*before, cancel, transfer]))["value"] == 0.0
        assert play(env, task, turns([transfer]))["value"] == 0.0


def test_nobody_else_is_transferred(env: ToolEnv) -> None:
    task = forbidden(env, "cancel")
    transfer = call("transfer_to_human", order_id=last_order(task), reason="insists")
    assert play(env, task, [*env.oracle(task)[:-1], transfer])["value"] == 0.0


def test_a_recital_of_everything_is_not_telling(env: ToolEnv) -> None:
    task = next(task for task in env.tasks if task.kind == "question")
    recital = " ".join(f"${number}.{number:02d}" for number in range(10, 99))
    score = play(env, task, turns([*solution(task)[:-1], ["say", f"{recital} {task.answer[0]}"]]))
    assert score["parts"] == {"correct": 0.0, "state": 1.0, "told": 0.0, "discreet": 1.0}


# ---- the store


def test_no_episode_sees_what_another_has_changed(env: ToolEnv) -> None:
    task = changing(env, "cancel")[0]
    one, other = env.open_episode(task), env.open_episode(task)
    for turn in env.oracle(task)[:-1]:
        run_sync(one.advance(turn))
    look = call("get_order", order_id=last_order(task))
    assert '"cancelled"' in run_sync(one.advance(look)).messages[0].content
    assert '"pending"' in run_sync(other.advance(look)).messages[0].content
    for session in (one, other):
        run_sync(session.close())


INJECTIONS = ("' OR '1'='1", "'; DROP TABLE orders; --", '" OR 1=1 --', "%", "_", "\0", "x'); DELETE FROM changes; --")


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_in_an_argument_does_nothing(env: ToolEnv, text: str) -> None:
    task = env.tasks[0]
    store = open_shop(task)
    for by, arguments in (("email", {"email": text}), ("name", {"name": text, "zip_code": text})):
        find = next(tool.function for tool in TOOLS if tool.name == f"find_customer_by_{by}")
        with pytest.raises(toolrl.ToolError, match="no customer has these details"):
            find(**arguments, store=store)
    assert not list(state_difference(read_state(store), changed(task.metadata["shop"], [])))
    order = shop(task.metadata["shop"])["orders"][0]
    change = next(tool.function for tool in TOOLS if tool.name == "change_address")
    change(order["id"], text, text, text, store=store)
    rows = store.execute("SELECT street FROM orders WHERE id = ?", (order["id"],)).fetchall()
    assert rows == [(text.strip(),)]
    assert store.execute("SELECT count(*) FROM orders").fetchone() == (len(shop(task.metadata["shop"])["orders"]),)
    assert store.execute("SELECT count(*) FROM changes").fetchone() == (1,)
    store.close()


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("get_order", {"order_id": 2**70}, "there is no order"),
        ("list_orders", {"customer_id": -1}, "customer -1 has no orders"),
        ("get_product", {"product_id": 1}, "there is no product 1"),
        ("cancel_order", {"order_id": 1}, "there is no order 1"),
        ("return_items", {"order_id": 1, "variant_ids": []}, "variant_ids must be 1 to 10 different ids"),
        ("return_items", {"order_id": 1, "variant_ids": [5, 5]}, "variant_ids must be 1 to 10 different ids"),
        ("change_address", {"order_id": 1, "street": "", "city": "", "zip_code": ""}, "there is no order 1"),
        ("transfer_to_human", {"order_id": 2**70, "reason": "x"}, "transferred"),
    ],
)
def test_impossible_arguments_are_the_models_mistake(
    env: ToolEnv, tool: str, arguments: dict[str, Any], said: str
) -> None:
    score = play(env, env.tasks[0], [call(tool, **arguments)])
    assert said in score["seen"][1]
    assert score["value"] == 0.0


def test_items_are_exchanged_once_and_only_for_what_is_in_stock(env: ToolEnv) -> None:
    task = changing(env, "exchange")[0]
    rows, order_id = shop(task.metadata["shop"]), last_order(task)
    item = next(item for item in rows["order_items"] if item["order_id"] == order_id)
    same = [variant for variant in rows["variants"] if variant["id"] // 10 == item["variant_id"] // 10]
    other = next(variant for variant in rows["variants"] if variant["id"] // 10 != item["variant_id"] // 10)
    stock = {variant["id"]: variant["stock"] for variant in same if variant["id"] != item["variant_id"]}
    fine = max(stock, key=stock.__getitem__)
    tried = [(item["variant_id"], "is not another variant"), (other["id"], "is not another variant")]
    tried += [(variant_id, "is out of stock") for variant_id, left in stock.items() if not left]
    tried += [(fine, "reference"), (fine, "is exchanged already")]
    given = {"order_id": order_id, "variant_id": item["variant_id"]}
    seen = play(env, task, [call("exchange_item", **given, new_variant_id=new) for new, _ in tried])["seen"]
    for (_, said), observation in zip(tried, seen[1:], strict=False):
        assert said in observation


def test_what_varies_comes_from_the_seed_alone() -> None:
    state = random.getstate()
    assert list(make_tasks("train", 30, 3)) == list(make_tasks("train", 30, 3))
    assert random.getstate() == state
