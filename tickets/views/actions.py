"""What people do at the desk: forms that work without scripts and answer a script with the part that changed."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from leadengine.envelope import sentence_of
from leadengine.errors import DomainError, NotFound, ValidationFailed
from tickets.models import Message
from tickets.policy import visible_tickets
from tickets.queries import thread_delta, ticket_detail
from tickets.services.lifecycle import (
    add_note,
    assign_ticket,
    close_ticket,
    delete_draft,
    mark_read,
    mark_unread,
    reopen_ticket,
    save_draft,
    take_ticket,
)
from tickets.services.outbox import cancel_message, dismiss_message, queue_message, resend_message
from tickets.views.access import DeskRequest, by_script, desk
from tickets.views.pages import list_context, panel_context, ticket_context
from tickets.views.shown import Shown, show_item, show_message

_END = 10**18


@require_POST
@desk
def send(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Send a reply or keep a note. A script gets the bubble; the text of a refused form stays in the box."""
    kind, text = request.POST.get("kind", "REPLY"), request.POST.get("text", "")
    try:
        shown = _note(request, ticket_id, text) if kind == "NOTE" else _reply(request, ticket_id, text)
    except DomainError as error:
        if by_script(request) or error.status == NotFound.status:
            raise
        typed = {"refusal": sentence_of(error), "typed": text, "kind": kind}
        context = list_context(request) | ticket_context(request, ticket_id) | typed
        return render(request, "tickets/inbox.html", context, status=error.status)
    if by_script(request):
        context = {"items": [shown], "plain": True, "key": request.POST.get("key", "")}
        return render(request, "tickets/_thread_part.html", context)
    return redirect("desk:ticket", ticket_id)


def _reply(request: DeskRequest, ticket_id: UUID, text: str) -> Shown:
    queued = queue_message(
        ticket_id=ticket_id,
        author=request.user,
        payload={"type": "text", "text": text},
        idempotency_key=request.POST.get("key") or None,
        expected_last_message_id=_uuid(request.POST.get("expected")),
        force=bool(request.POST.get("force")),
        reopen=bool(request.POST.get("reopen")),
        when_unavailable="queue" if request.POST.get("queue") else "fail",
        now=timezone.now(),
    )
    delete_draft(actor=request.user, ticket_id=ticket_id)
    return _shown(request, queued.message.ticket_id, queued.message.position)


def _note(request: DeskRequest, ticket_id: UUID, text: str) -> Shown:
    note_id = _made_id(request.POST.get("key", ""))
    note = add_note(actor=request.user, ticket_id=ticket_id, body=text, note_id=note_id, now=timezone.now())
    delta = thread_delta(request.viewer, ticket_id, position=_END, seq=note.seq - 1)
    return next(show_item(item, request.user) for item in delta.items if item.entry and item.entry.pk == note.pk)


@require_POST
@desk
def take(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Take a ticket; who may assign others takes it also from a colleague."""
    now = timezone.now()
    if request.user.may("tickets:assign-others"):
        return _acted(
            request,
            ticket_id,
            lambda: assign_ticket(actor=request.user, ticket_id=ticket_id, user_id=request.user.pk, now=now),
        )
    return _acted(request, ticket_id, lambda: take_ticket(actor=request.user, ticket_id=ticket_id, now=now))


@require_POST
@desk
def close(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """End a ticket with a reason."""
    reason, note = request.POST.get("reason", ""), request.POST.get("note", "")
    return _acted(
        request, ticket_id,
        lambda: close_ticket(
            actor=request.user, ticket_id=ticket_id, reason_code=reason, note=note, now=timezone.now()
        ),
    )  # fmt: skip


@require_POST
@desk
def reopen(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Reopen an ended ticket."""
    return _acted(
        request, ticket_id, lambda: reopen_ticket(actor=request.user, ticket_id=ticket_id, now=timezone.now())
    )


@require_POST
@desk
def unread(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Set the ticket back to unread, and leave it."""
    mark_unread(actor=request.user, ticket_id=ticket_id, now=timezone.now())
    return (
        HttpResponse(status=204, headers={"HX-Trigger": "list:refresh"})
        if by_script(request)
        else redirect("desk:inbox")
    )


@require_POST
@desk
def read(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Move the reader's own mark forward."""
    position = request.POST.get("position", "")
    if not position.isdigit() or len(position) > 18:
        raise ValidationFailed([{"field": "position", "message": "0…"}])
    mark_read(actor=request.user, ticket_id=ticket_id, position=int(position), now=timezone.now())
    return HttpResponse(status=204)


@require_POST
@desk
def draft(request: DeskRequest, ticket_id: UUID) -> HttpResponse:
    """Keep what was begun; an empty text forgets it."""
    kind, body = request.POST.get("kind", "REPLY"), request.POST.get("body", "")
    save_draft(actor=request.user, ticket_id=ticket_id, kind=kind, body=body)
    return HttpResponse(status=204)


@require_POST
@desk
def message(request: DeskRequest, message_id: UUID, action: str) -> HttpResponse:
    """Cancel, resend or dismiss a message of ours; the answer is the message as it is then."""
    now = timezone.now()
    if action == "cancel":
        cancel_message(actor=request.user, message_id=message_id, now=now)
    elif action == "dismiss":
        dismiss_message(actor=request.user, message_id=message_id, now=now)
    else:
        resend_message(
            actor=request.user, message_id=message_id, confirm_duplicate=bool(request.POST.get("sure")), now=now
        )
    rows = Message.objects.filter(ticket__in=visible_tickets(request.viewer))
    ticket_id, position = rows.values_list("ticket_id", "position").get(pk=message_id)
    if not by_script(request):
        return redirect("desk:ticket", ticket_id)
    return render(request, "tickets/_item.html", {"one": _shown(request, ticket_id, position), "plain": True})


def _acted(request: DeskRequest, ticket_id: UUID, act: Callable[[], object]) -> HttpResponse:
    """Do it, then show the header as it is; a refusal stands in it as a sentence, not in a dialog."""
    refusal: DomainError | None = None
    try:
        with transaction.atomic():
            act()
    except NotFound:
        raise
    except DomainError as error:
        refusal = error
    if not by_script(request) and refusal is None:
        return redirect("desk:ticket", ticket_id)
    status, told = (refusal.status, sentence_of(refusal)) if refusal else (200, "")
    if not by_script(request):
        context = list_context(request) | ticket_context(request, ticket_id)
        return render(request, "tickets/inbox.html", context | {"refusal": told}, status=status)
    context = panel_context(request, ticket_detail(request.viewer, ticket_id))
    context |= {"refusal": told, "together": True}
    response = render(request, "tickets/_header.html", context, status=status)
    response["HX-Trigger"] = "list:refresh"
    return response


def _shown(request: DeskRequest, ticket_id: UUID, position: int) -> Shown:
    delta = thread_delta(request.viewer, ticket_id, position=_END, seq=_END, states=(position, position))
    return show_message(delta.states[0], delta.ticket, request.user)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text or "")
    except ValueError:
        return None


def _made_id(key: str) -> UUID | None:
    """The id that the page made for what it sends; None without scripts."""
    try:
        return UUID(key)
    except ValueError:
        return None
