"""The text of `scripts.toml`, typed: people, products, topics, intents, groups."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "scripts.toml"


@dataclass(frozen=True, slots=True)
class Profile:
    """Who a customer is."""

    name: str
    gender: str
    area_code: str
    city: str
    district: str
    latitude: float
    longitude: float
    manner: str
    registration: str = "new"

    @property
    def short_name(self) -> str:
        """The name one is called by; of `Dona Lourdes` both words, of `Camila Rocha` the first."""
        first, *rest = self.name.split()
        return self.name if first in ("Dona", "Vó", "Sr.") and rest else first


@dataclass(frozen=True, slots=True)
class Product:
    """Something the shop sells."""

    name: str
    gender: str
    price: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What a conversation is about: how it begins, what it is in short, how it goes on and ends."""

    name: str
    photo: str
    openers: tuple[str, ...]
    summaries: tuple[str, ...]
    follow: tuple[str, ...]
    done: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A meaning of what the agent wrote, and the answers to it."""

    name: str
    pattern: re.Pattern[str]
    replies: tuple[str, ...]
    topic: str | None = None
    asks: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScript:
    """A group and what is said in it."""

    subject: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scripts:
    """Everything that customers are and say."""

    people: tuple[Profile, ...]
    products: tuple[Product, ...]
    facts: dict[str, dict[str, str]]
    phrases: dict[str, tuple[str, ...]]
    topics: tuple[Topic, ...]
    intents: tuple[Intent, ...]
    replies: dict[str, tuple[str, ...]]
    groups: tuple[GroupScript, ...]


@cache
def scripts() -> Scripts:
    """Loads the scripts once."""
    table = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    return Scripts(
        people=tuple(Profile(*row) for row in table["people"]),
        products=tuple(Product(*row) for row in table["products"]),
        facts=table["facts"],
        phrases=_tuples(table["phrases"]),
        topics=tuple(Topic(**_tuples(row)) for row in table["topics"]),
        intents=tuple(Intent(**_tuples(row) | {"pattern": re.compile(row["pattern"])}) for row in table["intents"]),
        replies=_tuples(table["replies"]),
        groups=tuple(GroupScript(**_tuples(row)) for row in table["groups"]),
    )


def topic_names() -> list[str]:
    """Lists what a script of customers may be about."""
    return [topic.name for topic in scripts().topics]


def _tuples(row: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
