"""One conversation of a customer with an instance: what was heard decides what is said. No clock, no network."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from whatsapp.simulator.people import Bag, Beat, Person
from whatsapp.simulator.scripts import Intent, Topic, scripts
from whatsapp.simulator.wire import Json, text_of

State = Literal["idle", "waiting", "ended"]
PATIENCE = 2  # how often a customer asks again before giving up
TURNS_BEFORE_GOODBYE = 3
MEDIA_WORDS = {
    "imageMessage": "image",
    "audioMessage": "audio",
    "videoMessage": "video",
    "documentMessage": "document",
    "documentWithCaptionMessage": "document",
    "pollCreationMessageV3": "poll",
}


@dataclass(slots=True)
class Talk:
    """The state machine: idle, waiting for the shop, ended with a goodbye."""

    person: Person
    bag: Bag
    by_clock: bool
    state: State = "idle"
    turns: int = 0
    nudges: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    topic: Topic = field(init=False)

    def __post_init__(self) -> None:
        self.topic = scripts().topics[-1]

    def begin(self, topic: Topic, opener: str, greeting: str | None) -> list[Beat]:
        """Opens a conversation: perhaps a greeting, then what it is about."""
        self._meet(topic, opener)
        line = f"{greeting} | {opener}" if greeting else opener
        return self._write(line)

    def ask_again(self, bag: Bag) -> list[Beat]:
        """Asks again: with a detail, or just for an answer. The lines come from the bag that all customers share."""
        self.nudges += 1
        if self.person.rng.random() < 0.4:
            return self.add_detail(bag)
        return self._write(bag.draw("nudges", scripts().phrases["nudges"]))

    def add_detail(self, bag: Bag) -> list[Beat]:
        """Adds something that the customer wants to know as well."""
        return self._write(bag.draw("follow " + self.topic.name, self.topic.follow))

    def waits(self) -> bool:
        """Whether the customer still hopes for an answer."""
        return self.state == "waiting" and not self.gives_up()

    def gives_up(self) -> bool:
        """Whether the customer has waited in vain for good."""
        return self.nudges >= PATIENCE

    def answer(self, heard: list[Json]) -> list[Beat]:
        """Answers what the agent wrote since the last answer; nothing only after a goodbye."""
        intent = intent_of(" ".join(text for content in heard if (text := text_of(content))))
        if self.state == "ended" and intent is not None and intent.name in ("tchau", "obrigado"):
            return []
        first_contact = self.state == "idle"
        if first_contact:
            self._meet(self._topic_of(intent), "")
        if self.state == "ended":
            self.turns = 0
        self.state = "waiting"
        self.turns += 1
        self.nudges = 0
        media = next((MEDIA_WORDS[kind] for content in heard for kind in content if kind in MEDIA_WORDS), None)
        if media is not None and (intent is None or intent.name in ("saudacao", "pergunta")):
            return self._say("media " + media, scripts().replies[media])
        if intent is None or (first_contact and intent.name == "saudacao"):
            pool = "surprised" if first_contact else "generic"
            return self._say(pool, scripts().replies[pool]) + ([] if first_contact else self._go_on())
        return self._reply(intent)

    def _reply(self, intent: Intent) -> list[Beat]:
        goodbye = intent.ends or (not intent.asks and self._has_enough())
        beats = self._say(intent.name, intent.replies)
        if goodbye:
            self.state = "ended"
            if not intent.ends:
                beats += self._say("done " + self.topic.name, self.topic.done)
                beats += self._say("thanks", scripts().replies["thanks"])
            return beats
        return beats if intent.asks else beats + self._go_on()

    def _go_on(self) -> list[Beat]:
        """Adds the next thing that the customer wants to know, more often than not."""
        if self.person.rng.random() > 0.55:
            return []
        return self.add_detail(self.bag)

    def _has_enough(self) -> bool:
        return self.turns >= TURNS_BEFORE_GOODBYE and self.person.rng.random() < 0.5

    def _topic_of(self, intent: Intent | None) -> Topic:
        named = next((topic for topic in scripts().topics if intent and topic.name == intent.topic), None)
        return named or self.person.rng.choice(scripts().topics)

    def _meet(self, topic: Topic, opener: str) -> None:
        self.topic = topic
        self.state = "waiting"
        self.turns = self.nudges = 0
        self.facts = self.person.facts(topic, opener, by_clock=self.by_clock)

    def _say(self, pool: str, lines: tuple[str, ...]) -> list[Beat]:
        return self._write(self.bag.draw(pool, lines))

    def _write(self, line: str) -> list[Beat]:
        if "{resumo}" in line:
            summary = self.bag.draw("summaries " + self.topic.name, self.topic.summaries)
            line = line.replace("{resumo}", summary)
        return self.person.write(line, self.facts)


def intent_of(text: str) -> Intent | None:
    """Finds what the agent means: the first intent whose pattern is in the text, lower-cased and without accents."""
    decomposed = unicodedata.normalize("NFKD", text.lower().strip())
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return next((intent for intent in scripts().intents if intent.pattern.search(plain)), None)
