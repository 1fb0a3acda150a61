"""The simulator as one object: its parts wired together, its instances, its life from start to stop."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from whatsapp.simulator.background import Background
from whatsapp.simulator.behaviours import Behaviours, Profile
from whatsapp.simulator.chats import Chats
from whatsapp.simulator.connection import Line
from whatsapp.simulator.customers import Crowd, CrowdSize
from whatsapp.simulator.events import EventLog
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.instances import (
    BrokerError,
    Instance,
    checked_note,
    id_of,
    persistent,
    read_state,
    write_state,
)
from whatsapp.simulator.media import Cdn
from whatsapp.simulator.sending import Sender
from whatsapp.simulator.webhooks import Target, Webhooks
from whatsapp.simulator.wire import Json, iso

SAVE_SECONDS = 0.05
SSE_TOKEN_SECONDS = 900
# The real broker keeps un-acked events for ever; a demo runs for days with nobody who acks.
DEMO_EVENTS_KEPT = 10_000
NOBODY = CrowdSize()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the command line decides."""

    api_keys: tuple[str, ...]
    webhook_url: str | None = None
    webhook_key: str = ""
    hmac_secret: str = ""
    profile: Profile = "demo"
    seed: int | None = None
    state_file: Path | None = None
    crowd: CrowdSize = NOBODY


class Simulator:
    """A broker with its instances and customers; everything is in memory but the state file."""

    def __init__(self, config: Config) -> None:
        self.config = config
        # Without a seed every run makes other ids: a client that kept the messages of the last run would take
        # repeated ids for repeated messages.
        self.ids = Ids(secrets.randbits(63) if config.seed is None else config.seed)
        self.started_at = time.time()
        self.instances: dict[str, Instance] = {}
        self.behaviours = Behaviours(config.profile)
        self.background = Background()
        self.cdn = Cdn(self.ids)
        self.events = EventLog(self.ids, keep=DEMO_EVENTS_KEPT if config.profile == "demo" else None)
        self.webhooks = Webhooks(
            Target(url=config.webhook_url, api_key=config.webhook_key, hmac_secret=config.hmac_secret),
            behaviours=self.behaviours,
            events=self.events,
            background=self.background,
            rng=self.ids.rng("shuffle"),
        )
        self.chats = Chats(
            ids=self.ids,
            behaviours=self.behaviours,
            events=self.events,
            webhooks=self.webhooks,
            background=self.background,
        )
        self.sender = Sender(
            chats=self.chats,
            behaviours=self.behaviours,
            background=self.background,
            ids=self.ids,
            cdn=self.cdn,
            human=config.profile == "real",
        )
        self.crowd = Crowd(
            chats=self.chats,
            instances=self.instances,
            behaviours=self.behaviours,
            ids=self.ids,
            cdn=self.cdn,
            by_clock=config.seed is None,
            patience=1 if config.profile == "demo" else 5,
        )
        self.chats.reader = self.crowd.hears
        self.requests: Counter[str] = Counter()  # what the broker was asked, by method and path
        self.watchers: set[asyncio.Queue[Json]] = set()
        self._line = Line(self.ids, self.background, self._reachable, self._changed)
        self._sse_tokens: dict[str, float] = {}
        self._saving: asyncio.TimerHandle | None = None
        self._saved: Json = {}

    async def start(self, base_url: str) -> None:
        """Takes up the saved sessions and customers and begins to live; `base_url` is where media are served."""
        self._saved = read_state(self.config.state_file) if self.config.state_file else {}
        self.cdn.base_url = base_url
        await self.webhooks.open()
        await self.sender.open()
        for saved in self._saved.get("instances", []):
            instance = self._add(saved["id"], saved["name"], saved["note"], saved["metadata"])
            instance.connection.restore(saved)
        stored = CrowdSize.model_validate(self._saved.get("customers", {}))
        self.set_crowd(self.config.crowd if self.config.crowd.count else stored)

    async def stop(self) -> None:
        """Ends everything at once and writes the state file."""
        self.save()
        self.watchers.clear()
        self.crowd.stop()
        await self.background.close()
        await self.webhooks.close()
        await self.sender.close()

    def create(self, body: Json, now: float) -> Instance:
        """Creates an instance whose socket is already starting.

        Raises:
            BrokerError: 409 `instance_exists`, 400 `note_invalid`.
        """
        name = body.get("name")
        name = name.strip() if isinstance(name, str) else ""
        note = checked_note(body.get("note"))
        id_ = id_of(name) if name else self.ids.uuid()
        if id_ in self.instances:
            raise BrokerError(409, "instance_exists")
        instance = self.add(id_, now, name=name or id_, note=note)
        instance.connection.start()
        return instance

    def add(self, id_: str, now: float, *, name: str, note: str = "") -> Instance:
        """Creates an instance with exactly this id; its socket rests."""
        stamp = iso(now)
        return self._add(id_, name, note, {"note": note, "createdAt": stamp, "updatedAt": stamp, "revisions": []})

    def delete(self, instance: Instance) -> None:
        """Logs an instance out and removes it with its events.

        Raises:
            BrokerError: 400 `default_instance_cannot_be_deleted`.
        """
        if instance.id == "default":
            raise BrokerError(400, "default_instance_cannot_be_deleted")
        instance.connection.stop()
        del self.instances[instance.id]
        self.events.forget(instance.id)
        self.behaviours.set({}, instance.id)
        self._changed(instance.id, "connection")

    def set_crowd(self, size: CrowdSize) -> None:
        """Replaces the living customers."""
        self.crowd.resize(size)
        self._save_soon()

    async def reset(self) -> None:
        """Makes everything empty again, with nothing still on its way; ids are never used twice all the same."""
        self.set_crowd(NOBODY)
        for instance in self.instances.values():
            instance.connection.stop()
        self.instances.clear()
        await self.background.close()
        self.behaviours.set({})
        self.events.forget()
        self.cdn.clear()
        self.webhooks.counters.clear()
        self.requests.clear()
        self._save_soon()

    def snapshot(self, instance: Instance) -> Json:
        """Writes the snapshot of an instance."""
        return instance.snapshot(self.behaviours.of(instance.id), time.monotonic())

    def make_sse_token(self, now: float) -> tuple[str, float]:
        """Makes a token for streams and QR pictures, good for 15 minutes."""
        self._sse_tokens = {token: until for token, until in self._sse_tokens.items() if until > now}
        token = secrets.token_hex(24)
        self._sse_tokens[token] = now + SSE_TOKEN_SECONDS
        return token, self._sse_tokens[token]

    def accepts_sse_token(self, token: str | None, now: float) -> bool:
        """Whether the token is one of ours and still good."""
        return token is not None and self._sse_tokens.get(token, 0) > now

    def save(self) -> None:
        """Writes the state file when what survives has changed."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        state: Json = {
            "instances": [persistent(instance) for instance in self.instances.values()],
            "customers": self.crowd.size.model_dump(by_alias=True),
        }
        if self.config.state_file is not None and state != self._saved:
            write_state(self.config.state_file, state)
            self._saved = state

    def _add(self, id_: str, name: str, note: str, metadata: Json) -> Instance:
        instance = self.instances[id_] = Instance(id_, name=name, note=note, metadata=metadata, line=self._line)
        return instance

    def _reachable(self, instance_id: str) -> bool:
        return not self.behaviours.of(instance_id).offline

    def _changed(self, instance_id: str, reason: str) -> None:
        self._save_soon()
        instance = self.instances.get(instance_id)
        if instance is None or not self.watchers:
            return
        for watcher in self.watchers:
            watcher.put_nowait(instance_news(reason, self.snapshot(instance)))

    def _save_soon(self) -> None:
        """Writes a moment later, so that thousands of changes at once cost one write."""
        if self._saving is None and self.config.state_file is not None:
            self._saving = asyncio.get_running_loop().call_later(SAVE_SECONDS, self.save)


def instance_news(reason: str, snapshot: Json) -> Json:
    """Writes the data of an `instance` event of the stream /instances/events."""
    detail = snapshot["connectionStateDetail"]
    return {"type": "instance", "reason": reason, "detail": detail, "instance": snapshot}
