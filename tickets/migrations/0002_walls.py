from django.db import migrations

from leadengine.accounts.rls import protect, refer, tenant_key, touch

TABLES = (
    "queue", "queuemembership", "closereason", "ticket", "tickettag", "ticketevent", "note", "readmarker", "draft",
    "message", "messagemedia", "messagereaction", "messagerevision", "outboundattempt", "ticketcounter",
)


class Migration(migrations.Migration):
    dependencies = [("tickets", "0001_initial"), ("leads", "0002_walls")]

    operations = [
        *(tenant_key(f"tickets_{name}") for name in ("queue", "closereason", "ticket", "message")),
        refer("tickets_queuemembership", "queue_id", "tickets_queue", on_delete="CASCADE"),
        refer("tickets_queuemembership", "user_id", "accounts_user", on_delete="CASCADE"),
        refer("tickets_ticket", "contact_id", "leads_contact"),
        refer("tickets_ticket", "queue_id", "tickets_queue"),
        refer("tickets_ticket", "assignee_id", "accounts_user"),
        refer("tickets_ticket", "close_reason_id", "tickets_closereason"),
        refer("tickets_tickettag", "ticket_id", "tickets_ticket", on_delete="CASCADE"),
        refer("tickets_tickettag", "tag_id", "leads_tag", on_delete="CASCADE"),
        refer("tickets_ticketevent", "ticket_id", "tickets_ticket", on_delete="CASCADE"),
        refer("tickets_note", "ticket_id", "tickets_ticket", on_delete="CASCADE"),
        refer("tickets_readmarker", "ticket_id", "tickets_ticket", on_delete="CASCADE"),
        refer("tickets_readmarker", "user_id", "accounts_user", on_delete="CASCADE"),
        refer("tickets_draft", "ticket_id", "tickets_ticket", on_delete="CASCADE"),
        refer("tickets_draft", "user_id", "accounts_user", on_delete="CASCADE"),
        refer("tickets_message", "ticket_id", "tickets_ticket"),
        refer("tickets_message", "contact_id", "leads_contact"),
        refer("tickets_message", "reply_to_id", "tickets_message"),
        refer("tickets_message", "resend_of_id", "tickets_message"),
        refer("tickets_messagemedia", "message_id", "tickets_message", on_delete="CASCADE"),
        refer("tickets_messagereaction", "message_id", "tickets_message", on_delete="CASCADE"),
        refer("tickets_messagerevision", "message_id", "tickets_message", on_delete="CASCADE"),
        refer("tickets_outboundattempt", "message_id", "tickets_message", on_delete="CASCADE"),
        *(
            touch(f"tickets_{name}")
            for name in ("queue", "queuemembership", "ticket", "note", "readmarker", "draft", "message", "messagemedia")
        ),
        *(protect(f"tickets_{name}") for name in TABLES),
    ]
