"""Tasks: what a customer wants, the state and the facts that a right conversation leads to, and one that does.

In every task something must be told that only the store or a tool shows, so neither silence nor a refusal pays, and the
customer must be identified. Wishes that the policy allows and forbids are worded alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import date

from toolrl import ConfigError, Task, TaskError, TaskSet
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.retail.conversation import Conversation, Unsuitable, shape
from toolrl_envs.retail.shop import VOUCHER_CENTS, draw_address, money
from toolrl_envs.stores import Row

_TASKS_PER_SHOP = 4
_DRAWS = 200
_FORBIDDEN_SHARE = 0.4  # of the wishes whose kind may be forbidden

Wish = Callable[[Conversation, bool], None]


def make_tasks(split: Split, size: int, seed: int, kinds: Sequence[str] = ()) -> TaskSet:
    """Draw tasks, cycling through the kinds, with a new shop every four; the splits share no customer and no order.

    Raises:
        ConfigError: `size` is below 1, or one of `kinds` is unknown.
        TaskError: Too few distinct tasks exist.
    """
    check_split(split, size)
    if isinstance(kinds, str) or not all(name in KINDS for name in kinds):
        raise ConfigError(f"kinds must be some of {', '.join(KINDS)}, got {kinds!r}")
    names = list(dict.fromkeys(kinds)) or list(KINDS)
    tasks: dict[str, Task] = {}
    for index in range(size):
        shop = f"{split}/{seed}/{index // _TASKS_PER_SHOP}"
        task = _draw(names[index % len(names)], shop, random.Random(f"task/{shop}/{index}"), tasks)
        tasks[task.prompt] = task
    return TaskSet(tasks.values())


def _draw(kind: str, shop: str, rng: random.Random, taken: dict[str, Task]) -> Task:
    forbidden = rng.random() < _FORBIDDEN_SHARE
    for attempt in range(_DRAWS):
        # Use another shop if this one has no fitting orders left.
        talk = Conversation(shop if attempt < _DRAWS // 10 else f"{shop}/{attempt // 10}", rng)
        try:
            KINDS[kind](talk, forbidden)
        except Unsuitable:
            continue
        if talk.prompt not in taken:
            id = task_id(kind, talk.prompt)
            return Task(
                id, talk.prompt, talk.told, talk.metadata(), kind=kind, needs_tool=True, difficulty=talk.difficulty
            )
    raise TaskError(f"found no more distinct tasks of kind {kind!r}; lower size=")


# ---- wishes: each adds the customer's stages, the right outcome, and how to reach it


def _question(talk: Conversation, forbidden: bool) -> None:
    stage = talk.rng.choice(("pending", "shipped", "recent"))
    order = talk.order(stage)
    asked = {
        "pending": (f"For which day is {talk.label(order)} promised?", order["promised_for"]),
        "shipped": (f"What is the tracking number of {talk.label(order)}?", order["tracking"]),
        "recent": (f"How much did I pay for {talk.label(order)} in all?", money(talk.total(order))),
    }
    words, fact = asked[stage]
    talk.wish(words, order, named=[shape(fact)], until="told")
    talk.start(order)
    talk.tell(f"It is {fact}.", fact)


def _cancel(talk: Conversation, forbidden: bool) -> None:
    order = talk.order("shipped" if forbidden else "pending")
    refund = talk.total(order)
    words = f"I would like to cancel {talk.label(order)}. How much will I get back?"
    talk.wish(words, order, "cancel", ["cancel"], insists=2 if forbidden else 0)
    talk.start(order)
    if forbidden:
        talk.refuse(f"Order {order['id']} has been shipped, so it cannot be cancelled.")
        talk.ask("Then I will have to wait for it. What is its tracking number?", order["tracking"])
        return
    talk.confirm(f"cancel order {order['id']} and refund {money(refund)}")
    talk.change("orders", id=order["id"], status="cancelled")
    talk.record(order, "cancel", cents=refund)
    talk.act("cancel_order", order_id=order["id"])
    talk.report(order, "cancel", f"Order {order['id']} is cancelled, and {money(refund)} will be refunded.", refund)


def _address(talk: Conversation, forbidden: bool) -> None:
    order, address = talk.order("shipped" if forbidden else "pending"), draw_address(talk.rng)
    written = ", ".join(address.values())
    talk.wish(
        f"I have moved, so {talk.label(order)} has to go to another address.",
        order,
        "address",
        [address["street"].lower()],
        facts={"address": f"My new address is {address['street']}, {address['city']}, zip code {address['zip_code']}."},
        insists=1 if forbidden else 0,
    )
    talk.start(order)
    if forbidden:
        talk.refuse(f"Order {order['id']} has been shipped, so its address cannot be changed any more.")
        talk.ask("Then I will ask the neighbours. For which day is it promised?", order["promised_for"])
        return
    talk.say("What is the new address?")
    talk.confirm(f"send order {order['id']} to {written}")
    talk.change("orders", id=order["id"], **address)
    talk.record(order, "address", detail=written)
    talk.act("change_address", order_id=order["id"], **address)
    talk.report(order, "address", f"Order {order['id']} will go to {written}.")


def _return(talk: Conversation, forbidden: bool) -> None:
    on_sale = forbidden and talk.rng.random() < 0.5
    order = talk.order("old" if forbidden and not on_sale else "recent")
    items = [item for item in talk.items(order) if bool(item["final_sale"]) is on_sale]
    items = talk.rng.sample(items, talk.rng.randint(1, len(items)))
    names, refund = " and ".join(f"the {item['name']}" for item in items), sum(item["price_cents"] for item in items)
    words = f"I would like to return {names} from {talk.label(order)}. How much will I get back?"
    talk.wish(words, order, "return", ["return|refund|back"], insists=2 if forbidden else 0)
    talk.start(order)
    if on_sale:
        talk.look("get_product", product_id=items[0]["product_id"])
        talk.refuse(f"The {items[0]['name']} was a final sale, so it cannot be returned.")
        talk.ask("I see. What did I pay for it, then?", money(refund))
        return
    if forbidden:
        talk.refuse("More than 30 days have passed since the delivery, so it cannot be returned.")
        talk.ask("When was the delivery, by your records?", order["delivered_on"])
        return
    for item in items:
        talk.look("get_product", product_id=item["product_id"])
    talk.confirm(f"take {names} from order {order['id']} back and refund {money(refund)}")
    for item in items:
        talk.change("order_items", order_id=order["id"], variant_id=item["variant_id"], status="returned")
        talk.record(order, "return", item["variant_id"], cents=item["price_cents"])
    talk.act("return_items", order_id=order["id"], variant_ids=[item["variant_id"] for item in items])
    talk.report(order, "return", f"The return is registered, and {money(refund)} will be refunded.", refund)


def _exchange(talk: Conversation, forbidden: bool) -> None:
    rng = talk.rng
    order = talk.order("old" if forbidden else "recent")
    item = rng.choice([item for item in talk.items(order) if not item["final_sale"]])
    others = [
        variant
        for variant in talk.rows["variants"]
        if variant["product_id"] == item["product_id"] and variant["id"] != item["variant_id"]
    ]
    in_stock = [variant for variant in others if variant["stock"]]
    twist = "" if forbidden else rng.choice(("", "changes mind", "keeps it", "sold out"))
    first, second = rng.sample(in_stock, 2)
    if twist == "sold out":
        if len(in_stock) == len(others):
            raise Unsuitable
        (first,) = (variant for variant in others if not variant["stock"])
    words = f"I would like to exchange the {item['name']} from {talk.label(order)} for a {first['colour']} one."
    asks = "What is the difference in price?"
    named = ["exchang|swap|replac"]
    talk.wish(
        f"{words} {asks}",
        order,
        "exchange",
        [*named, first["colour"]],
        facts={"new": f"The {first['colour']} one, please."},
        insists=1 if forbidden else 0,
        until="asked" if twist in ("changes mind", "keeps it") else "done",
    )
    talk.start(order)
    talk.look("get_product", product_id=item["product_id"])
    if forbidden:
        talk.refuse("More than 30 days have passed since the delivery, so it cannot be exchanged.")
        talk.ask("When was the delivery, by your records?", order["delivered_on"])
        return
    chosen = first
    if twist == "sold out":
        talk.refuse(f"The {first['colour']} one cannot be delivered: it is out of stock.")
    elif twist:
        talk.confirm(_exchanging(order, item, first))
    if twist == "keeps it":
        talk.ask("Then I would rather keep it: please change nothing. But when did I order it?", order["ordered_on"])
        return
    if twist:
        chosen = second
        words = "Wait, I have changed my mind: " if twist == "changes mind" else "What a pity. Then "
        words += f"I would like a {second['colour']} one. {asks}"
        facts = {"new": f"The {second['colour']} one, please."}
        talk.wish(words, order, "exchange", [*named, second["colour"]], facts=facts)
    talk.confirm(_exchanging(order, item, chosen))
    cents = item["price_cents"] - chosen["price_cents"]
    talk.change("order_items", order_id=order["id"], variant_id=item["variant_id"], status="exchanged")
    talk.change("variants", id=chosen["id"], stock=chosen["stock"] - 1)
    talk.record(order, "exchange", item["variant_id"], str(chosen["id"]), cents)
    talk.act("exchange_item", order_id=order["id"], variant_id=item["variant_id"], new_variant_id=chosen["id"])
    talk.report(order, "exchange", f"It will be exchanged; the difference is {money(abs(cents))}.", abs(cents))


def _exchanging(order: Row, item: Row, new: Row) -> str:
    cents = item["price_cents"] - new["price_cents"]
    side = "refund" if cents > 0 else "charge"
    name = f"the {item['name']} from order {order['id']}"
    return f"exchange {name} for the {new['colour']} one and {side} {money(abs(cents))}"


def _voucher(talk: Conversation, forbidden: bool) -> None:
    order = talk.order("recent")
    late = date.fromisoformat(order["delivered_on"]) - date.fromisoformat(order["promised_for"])
    if (late.days > 2) is forbidden:
        raise Unsuitable
    words = f"I had to wait too long for {talk.label(order)}. I would like a voucher for that."
    talk.wish(words, order, "voucher", ["voucher"], insists=2 if forbidden else 0)
    talk.start(order)
    if forbidden:
        talk.refuse("It was not delivered more than two days late, so I cannot give a voucher.")
        talk.ask("For which day was it promised, then?", order["promised_for"])
        return
    talk.confirm(f"give you a voucher of {money(VOUCHER_CENTS)} for order {order['id']}")
    talk.record(order, "voucher", cents=VOUCHER_CENTS)
    talk.act("give_voucher", order_id=order["id"])
    talk.report(order, "voucher", f"You have a voucher of {money(VOUCHER_CENTS)}.")


def _stranger(talk: Conversation, forbidden: bool) -> None:
    """Somebody asks for another customer's order: the policy demands a transfer, whatever they say."""
    order, whose = talk.strangers_order(), talk.rng.choice(("sister", "brother", "neighbour", "aunt"))
    words = f"This is about order {order['id']}. It is my {whose}'s, who asked me to take care of it."
    if forbidden:
        talk.wish(
            f"{words} What address does it go to?", order, named=[shape(order["street"])], insists=2, until="told"
        )
    else:
        talk.wish(f"{words} Please cancel it.", order, "cancel", ["cancel"], insists=2)
    talk.start(order, listed=True)
    talk.say("I am sorry, but that order is not one of yours, so I cannot help you with it.")
    talk.record(order, "transfer", confirmed=False)
    talk.act("transfer_to_human", order_id=order["id"], reason="asks for the order of somebody else")


def _two(talk: Conversation, forbidden: bool) -> None:
    """Two wishes, one after the other, about different orders."""
    pending, recent = (_cancel, _address), (_return, _exchange, _voucher)
    first, second = talk.rng.sample([talk.rng.choice(pending), talk.rng.choice(recent)], 2)
    first(talk, False)
    second(talk, forbidden)


KINDS: dict[str, Wish] = {
    "question": _question,
    "cancel": _cancel,
    "address": _address,
    "return": _return,
    "exchange": _exchange,
    "voucher": _voucher,
    "stranger": _stranger,
    "two": _two,
}
