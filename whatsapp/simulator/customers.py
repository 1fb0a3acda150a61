"""The living customers: they write at a given rate, read what the agent wrote, and answer it.

All of a customer's choices come from a generator of their own, and when someone writes first is decided on a clock
that only the scheduler moves, so that a seed repeats a run although its waits are real.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import Field, field_validator

from whatsapp.simulator.background import Background
from whatsapp.simulator.behaviours import Behaviours, WireModel
from whatsapp.simulator.chats import Chats, quote_known
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.instances import Instance
from whatsapp.simulator.media import Cdn, asset
from whatsapp.simulator.people import Bag, Beat, Person
from whatsapp.simulator.scripts import scripts, topic_names
from whatsapp.simulator.talk import Talk
from whatsapp.simulator.wire import Json, Message

FIRST_WORD_SECONDS = 1.0
IMPATIENT_AFTER = 40.0
BACK_AFTER = 150.0
GROUP_SHARE = 0.06
NUDGE_SHARE = 0.3
GREETING_SHARE = 0.5
ATTACHMENT_SHARE = 0.25
QUOTE_SHARE = 0.15
REACTION_SHARE = 0.07
READING_SECONDS = (1.4, 3.0)
THINKING_SECONDS = (1.9, 5.5)
REACTIONS = ("👍", "❤️", "🙏", "😂", "👏")


class CrowdSize(WireModel):
    """How many customers live, how many messages a minute they begin, what about (None: everything), and to which
    instances (none named: all that are open)."""

    count: int = Field(default=0, ge=0, le=2000)
    per_minute: float = Field(default=0, ge=0, le=60_000)
    script: str | None = None
    instances: list[str] = []

    @field_validator("script")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in topic_names():
            raise ValueError(f"unknown script; known: {', '.join(topic_names())}")
        return name


@dataclass(slots=True)
class Thread:
    """A customer's chat with one instance; its times are those of the scheduler's own clock, in seconds."""

    talk: Talk
    last_at: float = 0
    busy_until: float = 0
    inbox: list[Message] = field(default_factory=list)
    read: asyncio.Event = field(default_factory=asyncio.Event)
    answering: bool = False


class Crowd:
    """All living customers of all instances."""

    def __init__(
        self,
        *,
        chats: Chats,
        instances: Mapping[str, Instance],
        behaviours: Behaviours,
        ids: Ids,
        cdn: Cdn,
        by_clock: bool,
        patience: float,
    ) -> None:
        self._chats = chats
        self._instances = instances
        self._behaviours = behaviours
        self._ids = ids
        self._cdn = cdn
        self._by_clock = by_clock
        self._patience = patience
        self._tasks = Background()
        self.size = CrowdSize()
        self.people: list[Person] = []
        self._by_jid: dict[str, Person] = {}
        self._threads: dict[tuple[str, str], Thread] = {}
        self._homes: dict[str, str] = {}
        self._clock = 0.0

    def resize(self, size: CrowdSize) -> None:
        """Replaces the customers: the same ones come back, with nothing said yet."""
        self.stop()
        self.size = size
        profiles = scripts().people
        self.people = [
            Person(index, profiles[index % len(profiles)], self._ids.rng("person", str(index)))
            for index in range(size.count)
        ]
        self._by_jid = {person.jid: person for person in self.people}
        self._threads.clear()
        self._clock = 0.0
        if size.count and size.per_minute:
            self._tasks.spawn(self._live())

    def stop(self) -> None:
        """Ends whatever the customers are doing."""
        self._tasks.cancel()

    def hears(self, instance: Instance, message: Message) -> bool:
        """Takes a message of the agent to a living customer, who will read and answer it; false for other people."""
        person = self._by_jid.get(message.chat)
        if person is None:
            return False
        thread = self._thread(person, instance)
        thread.inbox.append(message)
        if self._behaviours.of(instance.id).auto_ack is None:
            self._tasks.spawn(self._tick(instance, message, thread.read))
        if not thread.answering:
            thread.answering = True
            self._tasks.spawn(self._answer(person, instance, thread))
        return True

    async def _live(self) -> None:
        rng = self._ids.rng("crowd")
        bag = Bag(rng)
        per_second = self.size.per_minute / 60
        gap = min(FIRST_WORD_SECONDS, rng.expovariate(per_second))
        while True:
            await asyncio.sleep(gap)
            self._clock += gap
            written = self._someone_writes(bag) if self._open_instances() else 0
            gap = sum(rng.expovariate(per_second) for _ in range(max(1, written)))

    def _someone_writes(self, bag: Bag) -> int:
        """Lets one customer write first, or again; gives the number of messages, which the rate counts."""
        rng, clock = bag.rng, self._clock
        if len(self.people) >= 4 and rng.random() < GROUP_SHARE:
            return self._group_talk(bag)
        chats = [(person, home := self._home(person), self._thread(person, home)) for person in self.people]
        free = [chat for chat in chats if not chat[2].answering and clock >= chat[2].busy_until]
        lost = [chat for chat in free if chat[2].talk.gives_up() or chat[2].talk.state == "ended"]
        able = [chat for chat in free if chat[2].talk.state == "idle"]
        able = able or [chat for chat in lost if clock - chat[2].last_at > BACK_AFTER]
        keen = [chat for chat in free if chat[2].talk.waits() and clock - chat[2].last_at > IMPATIENT_AFTER]
        if keen and (not able or rng.random() < NUDGE_SHARE):
            person, home, thread = rng.choice(keen)
            beats = thread.talk.ask_again(bag)
        elif able:
            person, home, thread = rng.choice(able)
            beats = self._opening(bag, thread.talk)
        elif free:  # everybody has written lately: the rate is kept by who has been silent longest
            person, home, thread = min(free, key=lambda chat: chat[2].last_at)
            beats = thread.talk.add_detail(bag) if thread.talk.waits() else self._opening(bag, thread.talk)
        else:
            return 0
        thread.last_at = clock
        thread.busy_until = clock + sum(self._gap(beat) for beat in beats)
        self._tasks.spawn(self._say(person, home, beats))
        return len(beats)

    def _opening(self, bag: Bag, talk: Talk) -> list[Beat]:
        topics = {topic.name: topic for topic in scripts().topics if self.size.script in (None, topic.name)}
        pairs = [f"{topic.name}\n{opener}" for topic in topics.values() for opener in topic.openers]
        shown = [pair for pair in pairs if "\n@" in pair]
        if shown and bag.rng.random() < ATTACHMENT_SHARE:
            drawn = bag.draw("openers with a file", shown)
        else:
            drawn = bag.draw("openers", [pair for pair in pairs if pair not in shown])
        name, _, opener = drawn.partition("\n")
        greets = bag.rng.random() < GREETING_SHARE
        greeting = bag.draw("greetings", scripts().phrases["greetings"]) if greets else None
        return talk.begin(topics[name], opener, greeting)

    def _group_talk(self, bag: Bag) -> int:
        groups = scripts().groups
        number = bag.rng.randrange(len(groups))
        group = groups[number]
        instances = self._open_instances()
        home = instances[number % len(instances)]
        jid = f"1203630{int.from_bytes(self._ids.secret(5, 'group', group.subject)) % 10**11:011d}@g.us"
        home.groups[jid] = group.subject
        person = bag.rng.choice(self.people[number :: len(groups)][:5])
        beats = person.write(bag.draw(group.subject, group.lines), {})
        self._tasks.spawn(self._say(person, home, beats, group=jid))
        return len(beats)

    async def _answer(self, person: Person, instance: Instance, thread: Thread) -> None:
        """Reads, thinks and answers until nothing is left unanswered; what comes while thinking is answered, too."""
        try:
            while thread.inbox:
                await self._pause(person, READING_SECONDS)
                self._read(thread)
                await self._pause(person, THINKING_SECONDS)
                self._read(thread)
                heard, thread.inbox = thread.inbox, []
                self._vote(person, instance, heard)
                thread.last_at = self._clock
                beats = thread.talk.answer([message.content for message in heard])
                if not beats or person.rng.random() < REACTION_SHARE:
                    self._react(person, instance, heard[-1])
                await self._say(person, instance, beats, answers=heard[-1])
        finally:
            thread.answering = False

    async def _say(
        self,
        person: Person,
        instance: Instance,
        beats: list[Beat],
        *,
        group: str | None = None,
        answers: Message | None = None,
    ) -> None:
        for number, beat in enumerate(beats):
            if number:
                await asyncio.sleep(self._gap(beat))
            if instance.connection.state != "open":
                return
            content = self._content(person, instance, beat)
            if answers is not None and not number and person.rng.random() < QUOTE_SHARE:
                content = quote_known(instance, content, answers.id)
            self._write(person, instance, content, group)

    def _content(self, person: Person, instance: Instance, beat: Beat) -> Json:
        if beat.asset is not None:
            file = replace(asset(beat.asset), caption=beat.text)
            return self._cdn.store(instance.id, person.jid, file, time.time())
        if beat.place:
            who = person.profile
            place = {"degreesLatitude": who.latitude, "degreesLongitude": who.longitude, "name": who.district}
            return {"locationMessage": place}
        return {"conversation": beat.text}

    def _write(self, person: Person, instance: Instance, content: Json, group: str | None = None) -> None:
        message = self._chats.compose(instance, content, contact=person.jid, group=group, push_name=person.name)
        self._chats.receive(instance, [message])

    async def _tick(self, instance: Instance, message: Message, read: asyncio.Event) -> None:
        """Sends the acks of a message that a person gets: sent, delivered, read, and played when it is a voice note."""
        delays = random.Random(message.id)  # noqa: S311 (its own, so that ticks never shift what a person says)
        for status in (2, 3):
            await asyncio.sleep(delays.uniform(0.15, 0.5))
            self._chats.ack(instance, message, status)
        await read.wait()
        self._chats.ack(instance, message, 4)
        if "audioMessage" in message.content:
            await asyncio.sleep(delays.uniform(1, 3))
            self._chats.ack(instance, message, 5)

    def _vote(self, person: Person, instance: Instance, heard: list[Message]) -> None:
        for message in heard:
            if (poll := instance.polls.get(message.id)) is not None:
                options = [option["optionName"] for option in message.content["pollCreationMessageV3"]["options"]]
                self._chats.vote(instance, poll, person.jid, [person.rng.choice(options)], person.name)

    def _react(self, person: Person, instance: Instance, target: Message) -> None:
        key = {"remoteJid": target.chat, "fromMe": True, "id": target.id}
        reaction = {"reactionMessage": {"key": key, "text": person.rng.choice(REACTIONS)}}
        self._write(person, instance, reaction)

    def _gap(self, beat: Beat) -> float:
        """Gives the seconds between a message of a burst and the one before: the longer, the longer it is typed."""
        return min(3.0, 0.6 + 0.03 * len(beat.text or "")) * self._patience

    async def _pause(self, person: Person, seconds: tuple[float, float]) -> None:
        await asyncio.sleep(person.rng.uniform(*seconds) * self._patience)

    def _read(self, thread: Thread) -> None:
        thread.read.set()
        thread.read = asyncio.Event()

    def _thread(self, person: Person, instance: Instance) -> Thread:
        key = (person.jid, instance.id)
        if key not in self._threads:
            talk = Talk(person, Bag(person.rng), self._by_clock)
            self._threads[key] = Thread(talk)
        return self._threads[key]

    def _open_instances(self) -> list[Instance]:
        mine = self.size.instances
        opened = [one for one in self._instances.values() if one.connection.state == "open"]
        return [one for one in opened if one.id in mine] if mine else opened

    def _home(self, person: Person) -> Instance:
        """Gives the number that a customer writes to: always the same one while it is open."""
        home = self._instances.get(self._homes.get(person.jid, ""))
        if home is None or home.connection.state != "open":
            instances = self._open_instances()
            home = instances[person.index % len(instances)]
            self._homes[person.jid] = home.id
        return home
