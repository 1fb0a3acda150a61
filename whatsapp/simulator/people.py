"""How one customer writes: facts into slots, lines into bursts, plain text into a person's own manner."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from whatsapp.simulator.scripts import Product, Profile, Topic, scripts
from whatsapp.simulator.wire import PHONE_SERVER

ABBREVIATIONS = {
    "vocês": "vcs",
    "você": "vc",
    "porque": "pq",
    "também": "tb",
    "hoje": "hj",
    "quando": "qdo",
    "por favor": "pfv",
    "obrigado": "obg",
    "obrigada": "obg",
    "beleza": "blz",
    "mensagem": "msg",
    "tudo bem": "td bem",
    "quanto": "qto",
    "muito": "mto",
    "não": "n",
}
BRASILIA = timedelta(hours=-3)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a person writes: shares between 0 and 1."""

    abbreviates: float
    typos: float
    emoji: tuple[str, ...]
    emoji_rate: float
    lowers: bool


MANNERS = {
    "jovem": Manner(0.5, 0.03, ("😂", "🙏", "😅", "❤️", "👀"), 0.14, lowers=True),
    "direto": Manner(0.2, 0.015, ("👍",), 0.04, lowers=False),
    "atencioso": Manner(0.0, 0.012, ("🙏", "🌹", "😊"), 0.16, lowers=False),
    "simpatico": Manner(0.15, 0.02, ("😊", "😍", "🙌", "☺️"), 0.22, lowers=False),
}


@dataclass(frozen=True, slots=True)
class Beat:
    """One message of a burst: a text, a file with its caption, or a place."""

    text: str | None = None
    asset: str | None = None
    place: bool = False


@dataclass(slots=True)
class Person:
    """A fictional customer; the same index is the same person in every run."""

    index: int
    profile: Profile
    rng: random.Random
    jid: str = field(init=False)

    def __post_init__(self) -> None:
        self.jid = _invented_number(self.index, self.profile) + PHONE_SERVER

    @property
    def name(self) -> str:
        """The name as WhatsApp shows it; when the people run out, they come again with other surnames."""
        people = scripts().people
        if self.index < len(people):
            return self.profile.name
        kin = people[(self.index * 7 + self.index // len(people)) % len(people)]
        return f"{self.profile.short_name} {kin.name.split()[-1]}"

    def card(self) -> dict[str, str]:
        """Says who it is, for the answer of the control API."""
        return {"name": self.name, "phone": "+" + self.jid.partition("@")[0], "city": self.profile.city}

    def facts(self, topic: Topic, opener: str, *, by_clock: bool) -> dict[str, str]:
        """Draws the facts of a conversation; what an asset in the opener shows is a fact."""
        shown = next((facts for asset, facts in scripts().facts.items() if f"@{asset}" in opener), {})
        product = self.rng.choice(scripts().products)
        if wanted := shown.get("product"):
            product = next(p for p in scripts().products if p.name == wanted)
        order = shown.get("order") or str(self.rng.randint(41_000, 49_999))
        greeting = _greeting(datetime.now(UTC)) if by_clock else "Bom dia"
        profile, woman = self.profile, self.profile.gender == "f"
        return {
            **_product_words(product),
            "pedido": order,
            "foto": topic.photo,
            "nome": self.name,
            "nome_curto": profile.short_name,
            "cidade": profile.city,
            "bairro": profile.district,
            "cep": self._postcode(),
            "tamanho": str(self.rng.randint(35, 44)),
            "cor": self.rng.choice(scripts().phrases["colours"]),
            "dia": self.rng.choice(("segunda", "terça", "quarta", "quinta", "sexta", "sábado")),
            "obrigado": "obrigada" if woman else "obrigado",
            "oa": "a" if woman else "o",
            "saudacao": greeting,
            "saudacao_min": greeting.lower(),
        }

    def write(self, line: str, facts: dict[str, str]) -> list[Beat]:
        """Turns a line of the script into the messages of a burst, in the person's manner."""
        filled = line.format_map(facts)
        beats: list[Beat] = []
        for part in filled.split(" | "):
            if not part.startswith("@"):
                beats.extend(self._typed(part))
                continue
            target, _, caption = part[1:].partition(" ")
            text = self._styled(caption) if caption else None
            if target == "local":  # a place has no caption: the words come as a message of their own
                beats += [Beat(place=True)] + ([Beat(text=text)] if text else [])
            else:
                beats.append(Beat(text=text, asset=target))
        return beats

    def _postcode(self) -> str:
        ending = self.rng.choice(("000", "120", "345", "410"))
        return f"{self.rng.randint(10_000, 99_999)}-{ending}"

    def _typed(self, text: str) -> list[Beat]:
        """Types one message; now and then a letter slips, and the right word follows with an asterisk."""
        styled = self._styled(text)
        words = re.findall(r"[a-zà-ú]{5,}", styled)
        if not words or self.rng.random() >= MANNERS[self.profile.manner].typos:
            return [Beat(text=styled)]
        word = self.rng.choice(words)
        at = self.rng.randrange(1, len(word) - 2)
        slipped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        beats = [Beat(text=styled.replace(word, slipped, 1))]
        return [*beats, Beat(text=f"*{word}")] if slipped != word and self.rng.random() < 0.6 else beats

    def _styled(self, text: str) -> str:
        manner = MANNERS[self.profile.manner]
        for word, short in ABBREVIATIONS.items():
            if self.rng.random() < manner.abbreviates:
                text = re.sub(rf"\b{word}\b", short, text, flags=re.IGNORECASE)
        if manner.lowers:
            text = text.lower() if text == text.capitalize() else text
        elif text[:1].isalpha():
            text = text[0].upper() + text[1:]
        if self.profile.manner == "atencioso" and text[-1].isalnum():
            text += "."
        if text[-1].isalnum() and self.rng.random() < manner.emoji_rate:
            text += " " + self.rng.choice(manner.emoji)
        return text


class Bag:
    """Draws lines in random order, and none again before all have been drawn."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self._left: dict[str, list[str]] = {}

    def draw(self, name: str, lines: Sequence[str]) -> str:
        """Draws one line of a pool."""
        if not self._left.get(name):
            self._left[name] = self.rng.sample(lines, len(lines))
        return self._left[name].pop()


def _product_words(product: Product) -> dict[str, str]:
    masculine = product.gender == "m"
    return {"produto": product.name, "o": "o" if masculine else "a", "esse": "esse" if masculine else "essa"}


def _greeting(now: datetime) -> str:
    hour = (now + BRASILIA).hour
    return "Bom dia" if 5 <= hour < 12 else "Boa tarde" if 12 <= hour < 18 else "Boa noite"


def _invented_number(index: int, profile: Profile) -> str:
    """Makes a mobile number out of the index; one registered long ago lacks the ninth digit, as many JIDs do."""
    digest = int.from_bytes(blake2b(f"customer {index}".encode(), digest_size=4).digest())
    local = f"{9 if digest % 2 else 8}{digest % 10_000_000:07d}"
    ninth = "" if profile.registration == "old" else "9"
    return f"55{profile.area_code}{ninth}{local}"
