"""Ids, keys and numbers that repeat for a seed, whatever the order in which chats happen to speak."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from hashlib import blake2b


class Ids:
    """Derives every id from the seed and a name, never from a shared stream of random numbers.

    Two chats that swap places because of timing would otherwise swap their ids, and two runs with one seed would
    differ. Counters are never reset, so that an id is used once in the life of the process.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._key = str(seed).encode()[:64]
        self._used: Counter[tuple[str, ...]] = Counter()

    def rng(self, *name: str) -> random.Random:
        """Makes a generator of its own for one purpose."""
        return random.Random(self.secret(8, "rng", *name))  # noqa: S311 (repeatable on purpose, guards nothing)

    def secret(self, size: int, *name: str) -> bytes:
        """Derives `size` bytes (at most 64), the same for the same name."""
        return blake2b("\0".join(name).encode(), digest_size=size, key=self._key).digest()

    def sent(self, instance_id: str, chat: str) -> str:
        """Makes the id of a message that the API sends: 22 characters, as the official broker's."""
        return "3EB0" + self._next(9, "sent", instance_id, chat)

    def received(self, instance_id: str, chat: str) -> str:
        """Makes the id of a message that a phone sends."""
        return "3A" + self._next(9, "received", instance_id, chat)

    def media_key(self, instance_id: str, owner: str) -> bytes:
        """Makes the key of a file: 32 bytes."""
        return bytes.fromhex(self._next(32, "media", instance_id, owner))

    def event(self) -> str:
        """Makes the id of an entry of the event list."""
        return "evt_" + self._next(10, "event").lower()

    def uuid(self) -> str:
        """Makes the id of an instance without a name."""
        return str(uuid.UUID(hex=self._next(16, "uuid"), version=4))

    def lid(self, jid: str) -> str:
        """Gives the LID of a phone: 15 digits that say nothing about it."""
        return f"{100_000_000_000_000 + int.from_bytes(self.secret(5, 'lid', jid)) % 800_000_000_000_000}@lid"

    def _next(self, size: int, *name: str) -> str:
        self._used[name] += 1
        return self.secret(size, *name, str(self._used[name])).hex().upper()
