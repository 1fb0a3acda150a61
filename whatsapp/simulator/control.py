"""The control API under /_sim: what a customer, WhatsApp or a failure does (spec/broker.md section 8)."""

from __future__ import annotations

import time
from base64 import b64decode
from binascii import Error as Base64Error
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from whatsapp.simulator.api import Route, answer, body_of, json_of
from whatsapp.simulator.behaviours import KNOWN_KEYS
from whatsapp.simulator.calls import (
    INBOUND,
    AckCall,
    ChangeCall,
    CloseCall,
    EmitCall,
    GroupName,
    Inbound,
    InboundMedia,
    OpenCall,
    ReactCall,
    VoteCall,
)
from whatsapp.simulator.chats import quote, quote_known
from whatsapp.simulator.connection import REASONS
from whatsapp.simulator.core import Simulator
from whatsapp.simulator.customers import CrowdSize
from whatsapp.simulator.instances import BrokerError, Instance, Tracked
from whatsapp.simulator.media import MIMETYPES, MediaFile
from whatsapp.simulator.wire import STATUS_POSTS, Json, Message, phone_jid

BODY_MAX = 64 * 1024 * 1024
Model = TypeVar("Model", bound=BaseModel)


class Control:
    """What tests, benches and the demo call."""

    def __init__(self, simulator: Simulator) -> None:
        self._sim = simulator

    def routes(self) -> list[Route]:
        """Lists method, path and handler."""
        one = "/_sim/{id}"
        return [
            ("GET", "/_sim/state", self.state),
            ("POST", "/_sim/reset", self.reset),
            ("POST", "/_sim/behaviour", self.behaviour),
            ("POST", "/_sim/customers", self.customers),
            ("GET", "/_sim/cdn/{name}", self.cdn),
            ("GET", one + "/sent", self.sent),
            ("POST", one + "/open", self.open),
            ("POST", one + "/qr", self.qr),
            ("POST", one + "/close", self.close),
            ("POST", one + "/inbound", self.inbound),
            ("POST", one + "/ack", self.ack),
            ("POST", one + "/receipt", self.receipt),
            ("POST", one + "/vote", self.vote),
            ("POST", one + "/react", self.react),
            ("POST", one + "/edit", self.edit),
            ("POST", one + "/revoke", self.revoke),
            ("POST", one + "/emit", self.emit),
            ("POST", one + "/behaviour", self.behaviour),
        ]

    async def state(self, _request: web.Request) -> web.Response:
        """GET /_sim/state."""
        sim = self._sim
        return answer(
            {
                "profile": sim.config.profile,
                "seed": sim.ids.seed,
                "instances": [sim.snapshot(instance) for instance in sim.instances.values()],
                "behaviours": sim.behaviours.layers(),
                "webhooks": dict(sim.webhooks.counters),
                "requests": dict(sim.requests),
                "customers": sim.crowd.size.model_dump(by_alias=True),
            }
        )

    async def reset(self, _request: web.Request) -> web.Response:
        """POST /_sim/reset."""
        await self._sim.reset()
        return answer({"ok": True})

    async def behaviour(self, request: web.Request) -> web.Response:
        """POST /_sim/behaviour, /_sim/:id/behaviour."""
        instance_id = self._instance(request).id if "id" in request.match_info else None
        keys = await json_of(request, BODY_MAX)
        try:
            self._sim.behaviours.set(keys if isinstance(keys, dict) else {"": keys}, instance_id)
        except ValidationError as error:
            raise BrokerError(400, "behaviour_invalid", detail=_reasons(error), known=KNOWN_KEYS) from error
        return answer({"ok": True, "behaviours": self._sim.behaviours.layers()})

    async def customers(self, request: web.Request) -> web.Response:
        """POST /_sim/customers."""
        size = await _call(request, CrowdSize)
        self._sim.set_crowd(size)
        return answer({"ok": True, "customers": [person.card() for person in self._sim.crowd.people]})

    async def cdn(self, request: web.Request) -> web.Response:
        """GET /_sim/cdn/:name: an encrypted file, without a key, as the media servers of WhatsApp."""
        stored = self._sim.cdn.get(request.match_info["name"])
        if stored is None:
            return web.Response(status=404)
        faults = self._sim.behaviours.of(stored.instance_id).cdn
        if faults.gone:
            return web.Response(status=404)
        if faults.redirect_to:
            return web.Response(status=302, headers={"location": faults.redirect_to})
        if time.time() < stored.stored_at + faults.fail_seconds:
            return web.Response(status=503)
        data = stored.ciphertext()
        if faults.corrupt:
            data = bytes([data[0] ^ 1]) + data[1:]
        return web.Response(body=data, content_type="application/octet-stream")

    async def sent(self, request: web.Request) -> web.Response:
        """GET /_sim/:id/sent."""
        return answer(list(self._instance(request).sent))

    async def open(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/open: scanned; an instance that does not exist is created with exactly this id."""
        call, id_ = await _call(request, OpenCall), request.match_info["id"]
        instance = self._sim.instances.get(id_) or self._sim.add(id_, time.time(), name=id_)
        instance.connection.open(phone_jid(call.phone).partition("@")[0] if call.phone else None, call.name)
        return answer(self._sim.snapshot(instance))

    async def qr(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/qr: the next QR at once; a paired instance is unpaired first."""
        instance = self._instance(request)
        instance.connection.next_qr()
        return answer({**self._sim.snapshot(instance), "qr": instance.connection.qr})

    async def close(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/close."""
        instance, call = self._instance(request), await _call(request, CloseCall)
        if call.status_code not in REASONS:
            raise BrokerError(400, "status_code_invalid", known=sorted(REASONS))
        instance.connection.close(call.status_code)
        return answer(self._sim.snapshot(instance))

    async def inbound(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/inbound: one message, or an array that WhatsApp hands over as one batch."""
        instance = self._instance(request)
        body = await json_of(request, BODY_MAX)
        try:
            calls = INBOUND.validate_python(body if isinstance(body, list) else [body])
        except ValidationError as error:
            raise BrokerError(400, "inbound_invalid", detail=_reasons(error)) from error
        messages = [self._message(instance, call) for call in calls]
        self._sim.chats.receive(instance, messages, calls[0].upsert_type)
        return answer({"ok": True, "ids": [message.id for message in messages]})

    async def ack(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/ack."""
        return await self._acked(request, "messages.update")

    async def receipt(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/receipt: as the receipts of a group, without a webhook."""
        return await self._acked(request, "receipt")

    async def vote(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/vote."""
        instance, call = self._instance(request), await _call(request, VoteCall)
        poll = instance.polls.get(call.poll_id)
        if poll is None:
            raise BrokerError(404, "poll_not_found")
        known = [option["optionName"] for option in poll.message.content["pollCreationMessageV3"]["options"]]
        if not set(call.options) <= set(known):
            raise BrokerError(400, "options_invalid", known=known)
        message = self._sim.chats.vote(instance, poll, call.voter, call.options, call.push_name)
        return answer({"ok": True, "id": message.id})

    async def react(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/react."""
        instance, call = self._instance(request), await _call(request, ReactCall)
        target = self._tracked(instance, call.id).message
        key = {"remoteJid": target.chat, "fromMe": target.from_me, "id": target.id}
        if not target.direct:
            key["participant"] = target.sender
        content = {"reactionMessage": {"key": key, "text": call.text}}
        return self._follow_up(instance, target, content, call.sender, call.push_name)

    async def edit(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/edit."""
        instance, call = self._instance(request), await _call(request, ChangeCall)
        target = self._tracked(instance, call.id).message
        change = {
            "key": {"id": target.id},
            "type": "MESSAGE_EDIT",
            "editedMessage": {"conversation": call.text or ""},
        }
        content = {"editedMessage": {"message": {"protocolMessage": change}}}
        return self._follow_up(instance, target, content, call.sender, by_author=True)

    async def revoke(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/revoke."""
        instance, call = self._instance(request), await _call(request, ChangeCall)
        target = self._tracked(instance, call.id).message
        content = {"protocolMessage": {"key": {"id": target.id}, "type": "REVOKE"}}
        return self._follow_up(instance, target, content, call.sender, by_author=True)

    async def emit(self, request: web.Request) -> web.Response:
        """POST /_sim/:id/emit: any webhook, also of an instance that does not exist here."""
        call = await _call(request, EmitCall)
        work = self._sim.webhooks.deliver(request.match_info["id"], call.event, call.payload)
        self._sim.background.spawn(work)
        return answer({"ok": True})

    async def _acked(self, request: web.Request, source: str) -> web.Response:
        instance, call = self._instance(request), await _call(request, AckCall)
        tracked = instance.messages.get(call.id)
        if tracked is None and call.to is None:
            raise BrokerError(404, "message_not_found")
        message = tracked.message if tracked else self._unknown(instance, call)
        self._sim.chats.ack(instance, message, call.status, source)
        return answer({"ok": True})

    def _unknown(self, instance: Instance, call: AckCall) -> Message:
        contact = phone_jid(call.to or "")
        return self._sim.chats.compose(instance, {}, contact=contact, from_me=True, by_api=True, id_=call.id)

    def _message(self, instance: Instance, call: Inbound) -> Message:
        group = call.group
        if isinstance(group, GroupName):
            instance.groups[_group_jid(group.id)] = group.subject
            group = group.id
        if group is not None and group != STATUS_POSTS:
            group = _group_jid(group)
            instance.groups.setdefault(group, group.partition("@")[0])
        return self._sim.chats.compose(
            instance,
            self._content(instance, call),
            contact=phone_jid(call.sender),
            group=group,
            push_name=call.push_name,
            from_me=call.from_me,
            id_=call.id,
            timestamp=call.timestamp,
            lid=call.lid and (call.lid if "@" in call.lid else f"{call.lid}@lid"),
            stub=call.stub,
        )

    def _content(self, instance: Instance, call: Inbound) -> Json:
        if call.message is not None:
            content = call.message
        elif call.media is not None:
            content = self._media(instance, call, call.media)
        else:
            content = {} if call.text is None else {"conversation": call.text}
        if isinstance(call.quoted, str):
            return quote_known(instance, content, call.quoted)
        if call.quoted is not None:
            own = instance.connection.own_jid
            participant = phone_jid(call.quoted.participant) if call.quoted.participant else own
            return quote(content, id_=call.quoted.id, participant=participant, text=call.quoted.text)
        return content

    def _media(self, instance: Instance, call: Inbound, media: InboundMedia) -> Json:
        if media.type not in MIMETYPES:
            raise BrokerError(400, "media_type_invalid", known=sorted(MIMETYPES))
        try:
            data = b64decode(media.base64, validate=True)
        except (Base64Error, ValueError) as error:
            raise BrokerError(400, "media_base64_invalid") from error
        file = MediaFile(
            kind=media.type,
            data=data,
            mimetype=media.mimetype or MIMETYPES[media.type],
            file_name=media.file_name,
            caption=call.caption,
            voice=media.ptt,
        )
        return self._sim.cdn.store(instance.id, phone_jid(call.sender), file, time.time())

    def _follow_up(
        self,
        instance: Instance,
        target: Message,
        content: Json,
        sender: str | None,
        push_name: str | None = None,
        *,
        by_author: bool = False,
    ) -> web.Response:
        """Sends a message about another one into its chat: by its author, else by the customer of the chat."""
        if sender is None and target.from_me and not target.direct and not by_author:
            raise BrokerError(400, "from_required")
        contact = phone_jid(sender) if sender else target.chat if target.direct else target.sender
        message = self._sim.chats.compose(
            instance,
            content,
            contact=contact,
            group=None if target.direct else target.chat,
            push_name=push_name or target.push_name,
            from_me=by_author and target.from_me and sender is None,
            lid=target.lid,
        )
        self._sim.chats.receive(instance, [message])
        return answer({"ok": True, "id": message.id})

    def _tracked(self, instance: Instance, message_id: str) -> Tracked:
        tracked = instance.messages.get(message_id)
        if tracked is None:
            raise BrokerError(404, "message_not_found")
        return tracked

    def _instance(self, request: web.Request) -> Instance:
        instance = self._sim.instances.get(request.match_info["id"])
        if instance is None:
            raise BrokerError(404, "instance_not_found")
        return instance


async def _call(request: web.Request, model: type[Model]) -> Model:
    try:
        return model.model_validate(await body_of(request))
    except ValidationError as error:
        raise BrokerError(400, "call_invalid", detail=_reasons(error)) from error


def _reasons(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, part['loc']))}: {part['msg']}" for part in error.errors()]


def _group_jid(value: str) -> str:
    return value if "@" in value else value + "@g.us"
