"""What people correct at the desk and in the back office: contacts, stages, tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F

from leadengine.accounts.models import User
from leadengine.accounts.services import save_audited
from leadengine.errors import DomainError, NotFound, ValidationFailed
from leadengine.sql import dumps
from leads.models import Contact, PipelineStage, Tag

MOST_CUSTOM_FIELDS = 65_536  # bytes of JSON
_CONTACT_FIELDS = ("name", "name_source", "notes", "custom_fields", "is_blocked")


class UnableToSave(DomainError):
    """Já existe uma etiqueta ou etapa assim."""

    code = "NAME_TAKEN"
    status = 409


class ContactChanged(DomainError):
    """O contato mudou enquanto isso: veja como está agora. Details: version."""

    code = "VERSION_CONFLICT"
    status = 409


def save_contact(*, actor: User, contact: Contact) -> dict[str, list[Any]]:
    """Write a person's corrections to a contact (name, notes, blocked); returns the changed fields.

    A changed name is the agent's from now on: the broker never overwrites it (D10).
    """
    if Contact.objects.filter(pk=contact.pk).exclude(name=contact.name).exists():
        contact.name_source = Contact.NameSource.AGENT
    changes = save_audited(actor=actor, row=contact, fields=_CONTACT_FIELDS, action="contact.saved")
    if changes:
        Contact.objects.filter(pk=contact.pk).update(version=F("version") + 1)
    return changes


def edit_contact(
    *,
    actor: User,
    contact_id: UUID,
    name: str | None = None,
    notes: str | None = None,
    custom_fields: Mapping[str, Any] | None = None,
    is_blocked: bool | None = None,
    version: int | None = None,
) -> Contact:
    """Change what is named, under the row lock; `custom_fields` by key (None removes one).

    Raises: NotFound, ContactChanged (stale version), ValidationFailed (custom fields over 64 KB).
    """
    contact: Contact | None = Contact.objects.select_for_update().filter(pk=contact_id).first()
    if contact is None:
        raise NotFound("Contato não encontrado.")
    if version is not None and version != contact.version:
        raise ContactChanged(version=contact.version)
    if name is not None:
        contact.name, contact.name_source = name.strip() or contact.name, Contact.NameSource.AGENT
    contact.notes = contact.notes if notes is None else notes
    contact.is_blocked = contact.is_blocked if is_blocked is None else is_blocked
    merged = {**contact.custom_fields, **(custom_fields or {})}
    contact.custom_fields = {key: value for key, value in merged.items() if value is not None}
    if len(dumps(contact.custom_fields) or "") > MOST_CUSTOM_FIELDS:
        raise ValidationFailed([{"field": "customFields", "message": "Os campos passam de 64 KB."}])
    save_contact(actor=actor, contact=contact)
    return contact


def save_stage(*, actor: User, stage: PipelineStage) -> None:
    """Create or change a stage of the pipeline. The status it stands for is that of its leads, and stays.

    Raises: UnableToSave.
    """
    _save(actor, stage, ("name", "status", "colour", "order_index", "is_won", "is_lost"), "stage.saved")


def save_tag(*, actor: User, tag: Tag) -> None:
    """Create or change a tag. Raises: UnableToSave."""
    _save(actor, tag, ("name", "colour"), "tag.saved")


def _save(actor: User, row: PipelineStage | Tag, fields: Sequence[str], action: str) -> None:
    if not actor.may("settings:write"):
        raise UnableToSave("Só administradores mudam esta configuração.")
    try:
        with transaction.atomic():
            save_audited(actor=actor, row=row, fields=fields, action=action)
    except IntegrityError as error:
        raise UnableToSave from error
