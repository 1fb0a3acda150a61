from django.db import migrations

from leadengine.accounts.rls import protect, refer, tenant_key, touch

TABLES = ("contact", "contactidentity", "tag", "contacttag", "pipelinestage", "lead", "leadactivity")


class Migration(migrations.Migration):
    dependencies = [("leads", "0001_initial"), ("accounts", "0002_walls")]

    operations = [
        *(tenant_key(f"leads_{name}") for name in ("contact", "tag", "pipelinestage", "lead")),
        refer("leads_contact", "owner_id", "accounts_user"),
        refer("leads_contact", "merged_into_id", "leads_contact"),
        refer("leads_contactidentity", "contact_id", "leads_contact", on_delete="CASCADE"),
        refer("leads_contacttag", "contact_id", "leads_contact", on_delete="CASCADE"),
        refer("leads_contacttag", "tag_id", "leads_tag", on_delete="CASCADE"),
        refer("leads_lead", "contact_id", "leads_contact"),
        refer("leads_lead", "stage_id", "leads_pipelinestage"),
        refer("leads_lead", "owner_id", "accounts_user"),
        refer("leads_leadactivity", "lead_id", "leads_lead", on_delete="CASCADE"),
        *(touch(f"leads_{name}") for name in ("contact", "contactidentity", "tag", "pipelinestage", "lead")),
        *(protect(f"leads_{name}") for name in TABLES),
    ]
