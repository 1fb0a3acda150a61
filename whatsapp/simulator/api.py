"""The broker's own routes (spec/broker.md section 2)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeGuard

from aiohttp import web
from multidict import MultiMapping

from whatsapp.simulator.core import Simulator
from whatsapp.simulator.instances import BrokerError, Instance
from whatsapp.simulator.sending import Outgoing, text_message
from whatsapp.simulator.wire import PHONE_SERVER, Json, encode

BODY_MAX = 1024 * 1024
SETTLED = (0, 3, 4, 5)
Route = tuple[str, str, Callable[[web.Request], Any]]


class Api:
    """What the product's client calls."""

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator

    def routes(self) -> list[Route]:
        """Lists method, path and handler."""
        one = "/instances/{id}"
        return [
            ("GET", "/health", self.health),
            ("POST", "/instances", self.create),
            ("GET", "/instances", self.list_all),
            ("GET", one, self.get),
            ("PATCH", one, self.patch),
            ("DELETE", one, self.delete),
            ("GET", one + "/qr.png", self.qr),
            ("POST", one + "/pair", self.pair),
            ("POST", one + "/logout", self.logout),
            ("POST", one + "/session/wipe", self.wipe),
            ("GET", one + "/status", self.message_status),
            ("POST", one + "/send-text", self.send_text),
            ("POST", one + "/send-media", self.send_media),
            ("POST", one + "/send-poll", self.send_poll),
            ("POST", one + "/send-buttons", self.send_buttons),
            ("POST", one + "/send-list", self.send_list),
            ("POST", one + "/exists", self.exists),
            ("GET", one + "/check-number", self.check_number),
            ("GET", one + "/profile-pic", self.profile_pic),
            ("GET", one + "/groups", self.groups),
            ("GET", one + "/events", self.events),
            ("POST", one + "/events/ack", self.ack_events),
            ("GET", one + "/metrics", self.metrics),
            ("GET", one + "/risk", self.risk),
            ("POST", one + "/risk", self.set_risk),
            ("POST", one + "/risk/pause", self.pause_risk),
            ("POST", one + "/risk/resume", self.resume_risk),
        ]

    async def health(self, _request: web.Request) -> web.Response:
        """GET /health: no key, every instance."""
        parts = [self._sim.snapshot(instance) for instance in self._sim.instances.values()]
        shown = (
            "id",
            "name",
            "connected",
            "connectionState",
            "connectionUpdatedAt",
            "hasLastQr",
            "qrVersion",
            "queue",
        )
        instances = [
            {**{key: part[key] for key in shown}, "proxy": {"enabled": False, "failures": 0}} for part in parts
        ]
        uptime = round(time.time() - self._sim.started_at, 3)
        return answer({"status": "ok", "uptime": uptime, "instances": instances})

    async def create(self, request: web.Request) -> web.Response:
        """POST /instances."""
        instance = self._sim.create(await body_of(request), time.time())
        directory = f"/app/sessions/{instance.id}"
        return answer({"id": instance.id, "name": instance.name, "dir": directory, "metadata": instance.metadata})

    async def list_all(self, _request: web.Request) -> web.Response:
        """GET /instances: a bare array of all, whoever made them."""
        now = time.monotonic()
        return answer([i.summary(self._sim.behaviours.of(i.id), now) for i in self._sim.instances.values()])

    async def get(self, request: web.Request) -> web.Response:
        """GET /instances/:id."""
        return answer(self._sim.snapshot(self._instance(request)))

    async def patch(self, request: web.Request) -> web.Response:
        """PATCH /instances/:id."""
        instance = self._instance(request)
        instance.rename(await body_of(request), time.time())
        self._sim.save()
        return answer(self._sim.snapshot(instance))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /instances/:id."""
        self._sim.delete(self._instance(request))
        return answer({"ok": True, "message": "Instância removida"})

    async def qr(self, request: web.Request) -> web.Response:
        """GET /instances/:id/qr.png; without a QR 204, and a stopped socket starts."""
        instance = self._sim.instances.get(request.match_info["id"])
        if instance is None:
            return web.Response(text="instance_not_found", status=404)
        picture = instance.connection.picture()
        if picture is not None:
            return web.Response(body=picture, content_type="image/png", headers={"cache-control": "no-store"})
        if instance.connection.state in ("qr_timeout", "close"):
            instance.connection.start()
        return web.Response(status=204)

    async def pair(self, request: web.Request) -> web.Response:
        """POST /instances/:id/pair."""
        instance = self._instance(request)
        number = re.sub(r"[^0-9]", "", str((await body_of(request)).get("phoneNumber") or ""))
        if not 10 <= len(number) <= 15:
            raise BrokerError(400, "phoneNumber inválido")
        connection = instance.connection
        if connection.state not in ("open", "connecting"):
            raise BrokerError(503, "instance_offline", **connection.error_fields())
        return answer({"pairingCode": connection.pairing_code()})

    async def logout(self, request: web.Request) -> web.Response:
        """POST /instances/:id/logout; quirk: 503 when there is nothing to log out."""
        instance = self._instance(request)
        self._sim.sender.require_open(instance)
        instance.connection.wipe(logged_out=True)
        return answer({"ok": True, "message": "Sessão desconectada"})

    async def wipe(self, request: web.Request) -> web.Response:
        """POST /instances/:id/session/wipe: answered before it is done."""
        self._instance(request).connection.wipe_later()
        return answer({"ok": True, "message": "Limpeza da sessão agendada"}, status=202)

    async def message_status(self, request: web.Request) -> web.Response:
        """GET /instances/:id/status?id=: of a message, forgotten once it is final."""
        instance = self._instance(request)
        message_id = request.query.get("id")
        if not message_id:
            raise BrokerError(400, "id obrigatório")
        tracked = instance.messages.get(message_id)
        known = tracked is not None and tracked.message.by_api and tracked.status not in SETTLED
        return answer({"id": message_id, "status": tracked.status if tracked and known else None})

    async def send_text(self, request: web.Request) -> web.Response:
        """POST /instances/:id/send-text."""
        instance, body = await self._admitted(request)
        to, message = body.get("to"), body.get("message")
        if not to or not isinstance(message, str) or not message:
            raise BrokerError(400, "Campos obrigatórios: to, message")
        return await self._send(instance, to, text_message("text", self._sim.sender.expand(message)))

    async def send_media(self, request: web.Request) -> web.Response:
        """POST /instances/:id/send-media."""
        instance, body = await self._admitted(request)
        if not body.get("to"):
            raise BrokerError(400, "to_required")
        sender = self._sim.sender
        file, source = await sender.load(body.get("type"), body.get("media"), body.get("caption"))
        message_id = await sender.send(instance, body["to"], sender.media(instance, file))
        about = {"type": file.kind, "mimetype": file.mimetype, "fileName": file.file_name}
        return answer({"id": message_id, "status": 1, **about, "source": source, "size": len(file.data)}, status=201)

    async def send_poll(self, request: web.Request) -> web.Response:
        """POST /instances/:id/send-poll."""
        instance, body = await self._admitted(request)
        question, options = body.get("question"), body.get("options")
        if not body.get("to") or not isinstance(question, str) or not question or not _texts(options, at_least=2):
            raise BrokerError(400, "Campos obrigatórios: to, question, options (mínimo 2)")
        selectable = body.get("selectableCount", 1)
        if not isinstance(selectable, int) or not 0 <= selectable <= len(options):
            raise BrokerError(400, "selectableCount inválido")
        outgoing = self._sim.sender.poll(instance, question, options, selectable)
        return answer({"id": await self._sim.sender.send(instance, body["to"], outgoing), "status": 1}, status=201)

    async def send_buttons(self, request: web.Request) -> web.Response:
        """POST /instances/:id/send-buttons; quirk: only the text goes out."""
        return await self._send_plain(request, "buttons", "options")

    async def send_list(self, request: web.Request) -> web.Response:
        """POST /instances/:id/send-list; quirk: only the text goes out."""
        return await self._send_plain(request, "list", "sections")

    async def exists(self, request: web.Request) -> web.Response:
        """POST /instances/:id/exists; a number not on WhatsApp is an empty list."""
        instance = self._open(request)
        jid = self._sim.sender.recipient(instance, (await body_of(request)).get("to") or "")
        found = self._sim.behaviours.of(instance.id).exists
        return answer({"results": [{"jid": jid, "exists": True}] if found else []})

    async def check_number(self, request: web.Request) -> web.Response:
        """GET /instances/:id/check-number?number=: the digits as they are given."""
        instance = self._open(request)
        jid = instance.resolve(_number(request) + PHONE_SERVER)
        found = self._sim.behaviours.of(instance.id).exists
        return answer({"exists": found, "jid": jid if found else None})

    async def profile_pic(self, request: web.Request) -> web.Response:
        """GET /instances/:id/profile-pic?number=: nobody here shows one."""
        self._open(request)
        _number(request)
        return answer({"profilePicUrl": None})

    async def groups(self, request: web.Request) -> web.Response:
        """GET /instances/:id/groups: a bare array."""
        return answer([{"id": id_, "subject": subject} for id_, subject in self._open(request).groups.items()])

    async def events(self, request: web.Request) -> web.Response:
        """GET /instances/:id/events."""
        instance, query = self._instance(request), request.query
        limit = query.get("limit", "")
        page = self._sim.events.page(
            instance.id,
            limit=max(1, min(int(limit), 200)) if limit.isdigit() else 50,
            after=query.get("after"),
            type_=query.get("type"),
            direction=query.get("direction"),
        )
        return answer({"events": [e.as_json() for e in page], "nextCursor": page[-1].id if page else None})

    async def ack_events(self, request: web.Request) -> web.Response:
        """POST /instances/:id/events/ack."""
        instance = self._instance(request)
        ids = (await body_of(request)).get("ids")
        if not _texts(ids, at_least=1):
            raise BrokerError(400, "ids_required")
        found, missing = self._sim.events.ack(instance.id, ids)
        return answer({"acknowledged": found, "missing": missing})

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /instances/:id/metrics?from=&to= (ms): sends per minute and what became of them."""
        instance = self._instance(request)
        since, until = _millis(request.query, "from", 0), _millis(request.query, "to", 1 << 62)
        minutes = [(minute * 1000, sent) for minute, sent in sorted(instance.timeline.items())]
        timeline = [{"timestamp": at, "sent": sent} for at, sent in minutes if since <= at <= until]
        return answer({"snapshot": self._sim.snapshot(instance), "timeline": timeline, "delivery": instance.delivery()})

    async def risk(self, request: web.Request) -> web.Response:
        """GET /instances/:id/risk."""
        return self._risk(self._instance(request))

    async def set_risk(self, request: web.Request) -> web.Response:
        """POST /instances/:id/risk."""
        instance = self._instance(request)
        body, guard = await body_of(request), instance.risk
        safe = body.get("safeContacts", guard.safe_contacts)
        if not _texts(safe, at_least=0):
            raise BrokerError(400, "safe_contacts_invalid")
        guard.safe_contacts = safe
        if isinstance(body.get("threshold"), int | float):
            guard.threshold = float(body["threshold"])
        if isinstance(body.get("interleaveEvery"), int):
            guard.interleave_every = body["interleaveEvery"]
        return self._risk(instance)

    async def pause_risk(self, request: web.Request) -> web.Response:
        """POST /instances/:id/risk/pause."""
        instance = self._instance(request)
        instance.risk.paused = True
        return self._risk(instance)

    async def resume_risk(self, request: web.Request) -> web.Response:
        """POST /instances/:id/risk/resume; the next send to one stranger too many pauses again."""
        instance = self._instance(request)
        instance.risk.paused = False
        return self._risk(instance)

    async def _send(self, instance: Instance, to: object, outgoing: Outgoing) -> web.Response:
        message_id = await self._sim.sender.send(instance, to, outgoing)
        return answer({"id": message_id, "messageId": message_id, "status": 1})

    async def _send_plain(self, request: web.Request, type_: str, choices: str) -> web.Response:
        instance, body = await self._admitted(request)
        to, text = body.get("to"), body.get("text")
        if not to or not isinstance(text, str) or not text or not isinstance(body.get(choices), list):
            raise BrokerError(400, f"Campos obrigatórios: to, text, {choices}")
        return await self._send(instance, to, text_message(type_, self._sim.sender.expand(text)))

    async def _admitted(self, request: web.Request) -> tuple[Instance, Json]:
        """Reads a send request and takes its slot: existence, connection and rate come before any field."""
        body = await body_of(request)
        instance = self._instance(request)
        self._sim.sender.admit(instance)
        return instance, body

    def _instance(self, request: web.Request) -> Instance:
        instance = self._sim.instances.get(request.match_info["id"])
        if instance is None:
            raise BrokerError(404, "instance_not_found")
        return instance

    def _open(self, request: web.Request) -> Instance:
        instance = self._instance(request)
        self._sim.sender.require_open(instance)
        return instance

    def _risk(self, instance: Instance) -> web.Response:
        return answer({"ok": True, "risk": instance.risk.as_json(self._sim.behaviours.of(instance.id))})


def answer(body: object, *, status: int = 200) -> web.Response:
    """Answers with JSON."""
    return web.Response(body=encode(body), status=status, content_type="application/json", charset="utf-8")


async def json_of(request: web.Request, limit: int) -> Any:
    """Reads the JSON of a request; quirk: a large body and bad JSON are both 500."""
    raw = await request.read()
    if len(raw) > limit:
        raise BrokerError(500, "internal_server_error", message="request entity too large")
    if not raw or request.content_type != "application/json":
        return {}
    try:
        return json.loads(raw)
    except ValueError as error:
        raise BrokerError(500, "internal_server_error", message=str(error)) from error


async def body_of(request: web.Request) -> Json:
    """Reads the JSON object of a broker call; anything else has no fields."""
    body = await json_of(request, BODY_MAX)
    return body if isinstance(body, dict) else {}


def _texts(value: object, *, at_least: int) -> TypeGuard[list[str]]:
    return isinstance(value, list) and len(value) >= at_least and all(isinstance(v, str) and v for v in value)


def _number(request: web.Request) -> str:
    digits = re.sub(r"[^0-9]", "", request.query.get("number", ""))
    if not digits:
        raise BrokerError(400, "number obrigatório")
    return digits


def _millis(query: MultiMapping[str], name: str, default: int) -> int:
    value = query.get(name, "")
    return int(value) if value.isdigit() else default
