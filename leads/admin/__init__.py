"""Back office: contacts, their merges, leads, pipeline stages, tags."""

from leads.admin.contacts import ContactAdmin, find_contact_ids, number_of
from leads.admin.leads import LeadAdmin
from leads.admin.merges import ContactMergeAdmin
from leads.admin.setup import ColourForm, PipelineStageAdmin, TagAdmin

__all__ = [
    "ColourForm",
    "ContactAdmin",
    "ContactMergeAdmin",
    "LeadAdmin",
    "PipelineStageAdmin",
    "TagAdmin",
    "find_contact_ids",
    "number_of",
]
