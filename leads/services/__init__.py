"""Contacts and leads: every write of this app."""

from leads.services.contacts import ContactRow, Person, add_identities, find_contacts, upsert_contacts
from leads.services.desk import ContactChanged, UnableToSave, edit_contact, save_contact, save_stage, save_tag
from leads.services.pipeline import (
    DEFAULT_STAGES,
    LeadChange,
    LeadTouch,
    create_default_stages,
    note_answers,
    touch_leads,
)

__all__ = [
    "DEFAULT_STAGES",
    "ContactChanged",
    "ContactRow",
    "LeadChange",
    "LeadTouch",
    "Person",
    "UnableToSave",
    "add_identities",
    "create_default_stages",
    "edit_contact",
    "find_contacts",
    "note_answers",
    "save_contact",
    "save_stage",
    "save_tag",
    "touch_leads",
    "upsert_contacts",
]
