"""The living customers: their rate and variety, their answers and ticks, and that a seed repeats them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.whatsapp.simulator.conftest import Broker, Hook, StartBroker, until
from tests.whatsapp.simulator.test_webhooks import timeless
from whatsapp.simulator.customers import CrowdSize
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.people import Bag, Person
from whatsapp.simulator.scripts import scripts, topic_names
from whatsapp.simulator.talk import Talk, intent_of

INBOUND = "MESSAGE_INBOUND"
UPDATE = "WHATSAPP_MESSAGES_UPDATE"


async def crowd(broker: Broker, **size: Any) -> Any:
    status, answer = await broker.call("POST", "/_sim/customers", size)
    assert status == 200, answer
    return answer["customers"]


def texts(hook: Hook) -> list[str]:
    return [one["message"]["text"] for one in hook.of(INBOUND) if one["message"]["text"]]


async def test_customers_write_by_themselves_at_the_rate_and_do_not_repeat_themselves(
    broker: Broker, hook: Hook
) -> None:
    await broker.open()
    people = await crowd(broker, count=40, perMinute=1200)
    started = time.monotonic()
    await hook.wait(100, INBOUND, 20)
    took = time.monotonic() - started
    assert 2.5 < took < 12, "1200 a minute are 100 in 5 s, give or take the chance in it"
    payloads = hook.of(INBOUND)
    senders = {one["contact"]["phone"] for one in payloads}
    assert senders <= {person["phone"] for person in people}
    assert len(senders) > 20
    assert len({person["phone"][3:5] for person in people}) >= 20, "area codes of many states"
    long_ones = [text for text in texts(hook) if len(text) > 30]
    assert len(long_ones) > 30
    assert len(set(long_ones)) > 0.9 * len(long_ones), "two people may say the same, once in a while"
    assert any("media" in one["message"] for one in payloads)


async def test_flags_make_customers_too_and_nobody_writes_to_a_closed_number(start: StartBroker, hook: Hook) -> None:
    broker = await start(crowd=CrowdSize.model_validate({"count": 5, "perMinute": 6000}))
    await broker.call("POST", "/instances", {"name": "loja1"})
    await until(lambda: broker.simulator.instances["loja1"].connection.qr is not None)
    assert hook.got == []
    await broker.open()
    await hook.wait(3, INBOUND)


async def test_an_answer_comes_in_time_with_ticks_and_fits(broker: Broker, hook: Hook) -> None:
    await broker.open()
    people = await crowd(broker, count=3, perMinute=0)
    phone = people[0]["phone"].lstrip("+")
    started = time.monotonic()
    _, sent = await broker.text(phone, "Olá! Qual o número do pedido?")
    answer = (await hook.wait(1, INBOUND, 12))[0]
    took = answer.at - started
    assert 3 <= took <= 12
    assert answer.body["payload"]["contact"]["displayName"] == people[0]["name"]
    ticks = [one["raw"]["updates"][0] for one in hook.of(UPDATE)]
    assert [one["update"]["status"] for one in ticks] == [2, 3, 4]
    assert {one["key"]["id"] for one in ticks} == {sent["id"]}
    await until(lambda: any(character.isdigit() for character in " ".join(texts(hook))), 5)


async def test_an_explicit_auto_ack_replaces_the_customers_own_ticks(broker: Broker, hook: Hook) -> None:
    await broker.open(autoAck=[0], ackDelayMs=1)
    people = await crowd(broker, count=1, perMinute=0)
    await broker.text(people[0]["phone"])
    await hook.wait(1, INBOUND, 12)
    assert [one["raw"]["updates"][0]["update"]["status"] for one in hook.of(UPDATE)] == [0]


async def test_a_customer_votes(broker: Broker, hook: Hook) -> None:
    await broker.open()
    people = await crowd(broker, count=1, perMinute=0)
    poll = {"to": people[0]["phone"], "question": "Qual?", "options": ["A", "B"]}
    await broker.call("POST", "/instances/loja1/send-poll", poll)
    choice = (await hook.wait(1, "POLL_CHOICE", 12))[0].body["payload"]
    assert choice["selectedOptions"][0]["text"] in ("A", "B")
    assert choice["contact"]["displayName"] == people[0]["name"]


async def test_a_seed_repeats_what_customers_write(start: StartBroker, hook: Hook) -> None:
    runs = []
    for _ in range(2):
        hook.got.clear()
        broker = await start(seed=11)
        await broker.open()
        await crowd(broker, count=80, perMinute=6000)
        await hook.wait(200, seconds=20)
        await broker.call("POST", "/_sim/reset", {})
        runs.append([one.raw for one in hook.got])
    first, second = ({timeless(raw) for raw in run} for run in runs)
    assert len(first & second) >= 0.9 * min(len(first), len(second)), "but for what was on its way at the end"
    assert len(first & second) > 100


def a_talk(seed: int = 1, index: int = 0) -> Talk:
    ids = Ids(seed)
    person = Person(index, scripts().people[index], ids.rng("person"))
    return Talk(person, Bag(person.rng), by_clock=False)


def said(talk: Talk, text: str) -> str:
    return " ".join(beat.text or "" for beat in talk.answer([{"extendedTextMessage": {"text": text}}]))


@pytest.mark.parametrize(
    ("text", "intent"),
    [
        ("Olá! Como posso ajudar?", "ajuda"),
        ("Sai por R$ 199,90 à vista", "preco"),
        ("O prazo é de 3 dias úteis", "prazo"),
        ("Temos sim, em todas as cores", "estoque"),
        ("Esse está esgotado", "esgotado"),
        ("Só um momento que vou verificar", "espera"),
        ("Peço desculpas pelo transtorno", "desculpa"),
        ("Pode me enviar uma foto?", "pede_foto"),
        ("Qual o seu CPF?", "pede_cpf"),
        ("Posso ajudar em algo mais?", "satisfacao"),
        ("Tenha um ótimo dia!", "tchau"),
        ("Bom dia", "saudacao"),
    ],
)
def test_what_the_agent_means_is_understood(text: str, intent: str) -> None:
    understood = intent_of(text)
    assert understood is not None
    assert understood.name == intent


def test_the_answer_fits_what_the_agent_wrote() -> None:
    talk = a_talk()
    topic = scripts().topics[0]
    talk.begin(topic, topic.openers[1], None)
    assert said(talk, "Qual o número do pedido?").find(talk.facts["pedido"]) >= 0
    assert talk.answer([{"extendedTextMessage": {"text": "Pode enviar uma foto?"}}])[-1].asset == topic.photo
    assert said(talk, "Posso ajudar em algo mais?")
    assert talk.state == "ended"


def test_everyone_answers_anything_until_a_goodbye() -> None:
    for index in range(len(scripts().people)):
        talk = a_talk(seed=index, index=index)
        for text in ("Oi, tudo bem?", "blablabla", "Chega amanhã", "R$ 10,00", "?", "🙂"):
            assert said(talk, text) or talk.state == "ended", text
        assert said(talk, "Obrigado pelo contato, tenha um ótimo dia!") or talk.state == "ended"
        assert talk.state == "ended"
        assert said(talk, "Até logo!") == ""
        assert said(talk, "Seu pedido chegou na loja, quer retirar?"), "something new is answered again"


def test_there_is_much_to_say_and_every_line_can_be_said() -> None:
    book = scripts()
    lines = [line for topic in book.topics for line in (*topic.openers, *topic.summaries, *topic.follow, *topic.done)]
    replies = [line for intent in book.intents for line in intent.replies]
    replies += [line for pool in book.replies.values() for line in pool]
    assert len({*lines, *replies}) >= 300
    assert len(topic_names()) >= 6
    person = Person(0, book.people[0], Ids(1).rng("p"))
    for topic in book.topics:
        facts = person.facts(topic, "", by_clock=True) | {"resumo": "isso"}
        for line in (*lines, *replies, *book.phrases["greetings"]):
            beats = person.write(line, facts)
            assert beats
            assert all(beat.text or beat.asset or beat.place for beat in beats)
            assert all("{" not in (beat.text or "") for beat in beats)


def test_groups_talk_too() -> None:
    for group in scripts().groups:
        assert len(set(group.lines)) >= 10


def test_a_crowd_larger_than_the_cast_has_other_names_and_numbers() -> None:
    people = [Person(i, scripts().people[i % 30], Ids(1).rng(str(i))) for i in range(600)]
    assert len({person.jid for person in people}) == 600
    assert len({person.name for person in people}) > 300
    assert any(len(person.jid.partition("@")[0]) == 12 for person in people), "numbers without the ninth digit"
