"""Contacts and leads: every write of this app."""

from leads.services.contacts import (
    ContactRow,
    Person,
    add_identities,
    find_contacts,
    learn_identities,
    list_addresses,
    note_activity,
    upsert_contacts,
)
from leads.services.desk import ContactChanged, UnableToSave, edit_contact, save_contact, save_stage, save_tag
from leads.services.duplicates import Duplicate, merge_phone_variants
from leads.services.merging import (
    Preserved,
    UnableToMerge,
    UnableToUndo,
    find_current,
    lock_current,
    lock_merging,
    merge_contacts,
    undo_merge,
    undo_until,
)
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
    "Duplicate",
    "LeadChange",
    "LeadTouch",
    "Person",
    "Preserved",
    "UnableToMerge",
    "UnableToSave",
    "UnableToUndo",
    "add_identities",
    "create_default_stages",
    "edit_contact",
    "find_contacts",
    "find_current",
    "learn_identities",
    "list_addresses",
    "lock_current",
    "lock_merging",
    "merge_contacts",
    "merge_phone_variants",
    "note_activity",
    "note_answers",
    "save_contact",
    "save_stage",
    "save_tag",
    "touch_leads",
    "undo_merge",
    "undo_until",
    "upsert_contacts",
]
