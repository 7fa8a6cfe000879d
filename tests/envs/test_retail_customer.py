"""Promises about Retail-v0's scripted customer: it says what it is asked for, and tells no answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import Ended, Task
from toolrl.rewards import read_state, state_difference
from toolrl_envs.retail.customer import Customer
from toolrl_envs.retail.env import goal
from toolrl_envs.retail.shop import open_shop
from toolrl_envs.retail.tasks import make_tasks

TASKS = make_tasks("train", 64, 0)


def cancelling() -> list[Task]:
    """Tasks about an order that may be cancelled."""
    steps = {task.id: dict(task.metadata["steps"]) for task in TASKS if task.kind == "cancel"}
    return [TASKS.by_id(id) for id, made in steps.items() if "cancel_order" in made]


def last_order(task: Task) -> int:
    return int(task.metadata["customer"]["stages"][-1]["order_id"])


def replies(task: Task, *messages: str) -> list[str | Ended]:
    customer, store = Customer(task), open_shop(task)
    return [customer(message, store) for message in messages]


@pytest.mark.parametrize(
    ("asks", "fact"),
    [
        ("Could you please provide the email on your account?", "email"),
        ("What's your e-mail, so that I can verify you?", "email"),
        ("I need your full name.", "name"),
        ("And your ZIP code, please?", "zip"),
        ("May I ask for your postal code?", "zip"),
        ("Please confirm your email address first.", "email"),
        ("Before I can cancel anything, I need to verify your identity.", "identity"),
        ("To proceed with cancelling order {order}, I need your email.", "email"),
        ("Could you confirm your full name before I cancel order {order}?", "name"),
        ("Why do you want to cancel it?", "reason"),
    ],
)
def test_the_customer_gives_facts_when_asked_and_only_then(asks: str, fact: str) -> None:
    for task in cancelling()[:3]:
        facts = task.metadata["customer"]["facts"]
        (reply,) = replies(task, asks.format(order=last_order(task)))
        assert isinstance(reply, str)
        assert facts[fact] in reply
        (reply,) = replies(task, "Hello, and welcome to our shop.")
        assert isinstance(reply, str)
        assert not any(known in reply for known in facts.values())


NOT_FOUND = (
    "I couldn't find an order with that number.",
    "I am unable to locate this order.",
    "It isn't in our records.",
    "There is no such order.",
)


def test_a_wrong_order_number_is_corrected_when_it_is_not_found() -> None:
    task = next(task for task in TASKS if task.metadata["customer"]["wrong"])
    right = str(task.metadata["customer"]["stages"][0]["order_id"])
    for words in ("I cannot find that order.", "What is your order number?", "That order doesn't exist.", *NOT_FOUND):
        assert right in str(replies(task, words)[0])
    assert right not in task.prompt
    assert right not in str(replies(task, f"I do not find that order {right} may be changed.")[0]), "that is a refusal"


@pytest.mark.parametrize(
    "asks",
    [
        "I would cancel order {order} and refund it. Do you agree?",
        "Shall I cancel order #{order}?",
        "To cancel order {order}, please reply with 'yes'.",
        "Order {order} can be cancelled. Would you like me to proceed?",
        "You want order {order} cancelled, is that right?",
        "I'm going to cancel order {order} now. Please confirm (yes/no).",
    ],
)
def test_the_customer_agrees_to_what_it_wishes_and_to_nothing_else(asks: str) -> None:
    task = cancelling()[0]
    order = last_order(task)
    assert replies(task, asks.format(order=order)) == ["Yes, please do that."]
    assert "exactly" in str(replies(task, asks.format(order=order + 1))[0])
    assert "exactly" in str(replies(task, asks.replace("cancel", "keep").format(order=order))[0])


@pytest.mark.parametrize(
    "words",
    [
        "Unfortunately, order {order} has been shipped, so I'm unable to cancel it.",
        "I can't cancel an order that has been shipped. Would you like to know its tracking number?",
        "Sorry, that isn't possible any more: it's on its way.",
        "Our policy does not allow that; I won't be able to make an exception.",
    ],
)
def test_the_customer_insists_when_it_is_refused_and_then_gives_in(words: str) -> None:
    task = next(task for task in TASKS if task.kind == "cancel" and task not in cancelling())
    first, last = task.metadata["customer"]["stages"]
    said = replies(task, *[words.format(order=last_order(task))] * 3)
    assert said == [*first["insists"], last["says"]]
    assert replies(task, *[words] * 3, f"It is {task.answer[0]}. Would you like me to do anything more?")[-1] == ENDED


@pytest.mark.parametrize("text", ["9" * 300_000, "not " * 80_000, "$" * 300_000, "a" * 300_000, "? " * 100_000])
def test_a_huge_message_is_read_in_linear_time(text: str) -> None:
    for kind in ("question", "voucher"):
        for task in [task for task in TASKS if task.kind == kind][:2]:
            assert replies(task, text) != [ENDED]


ENDED = Ended("Thank you, that is all. Goodbye.", reason="the customer was finished")
WORDS = (
    "shall I cancel return exchange order {order} ? . please your email name zip yes agree sorry cannot reference "
    "X123456 $1.00 2024-01-01 TR11111111 done success reward end the conversation now voucher policy system: ignore"
)
MESSAGES = st.lists(st.sampled_from(WORDS.split()), max_size=12).map(" ".join)


@settings(max_examples=60)
@given(st.data())
def test_no_words_make_the_customer_tell_an_answer_or_end_with_success(data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(TASKS[:40]))
    customer, store = Customer(task), open_shop(task)
    for message in data.draw(st.lists(MESSAGES, max_size=8)):
        reply = customer(message.format(order=last_order(task)), store)
        text = reply.text if isinstance(reply, Ended) else reply
        assert not any(fact in text for fact in (*task.answer, *task.metadata["private"]))
        if isinstance(reply, Ended):
            break
    assert list(state_difference(read_state(store), goal(task), ignore=("consents.*",)))
    store.close()
