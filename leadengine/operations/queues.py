"""The task queues as an operator sees and empties them (spec/operations.md section 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from kombu.exceptions import ChannelError, KombuError

from leadengine.accounts.scopes import service_scope
from leadengine.accounts.services import write_audit
from leadengine.celery import INBOUND, SENDING, app
from leadengine.errors import DomainError
from leadengine.operations import facts
from leadengine.operations.collectors import engine_depths
from leadengine.redis import UNAVAILABLE
from tickets.services.outbox import purge_outbox

NAMES = tuple(queue.name for queue in app.conf.task_queues)


class UnknownQueue(DomainError):
    """Não há fila com este nome."""

    code = "NOT_FOUND"
    status = 404


class EngineUnavailable(DomainError):
    """O serviço de filas não responde."""

    code = "QUEUE_ENGINE_UNAVAILABLE"
    status = 503


@dataclass(frozen=True, slots=True)
class QueueState:
    """`messages`: what is to be done. Of sends and webhooks that stands in PostgreSQL, of the others in the engine."""

    name: str
    messages: int
    ready: int  # without those that are being sent now
    consumers: int  # processes that serve it


def list_queues() -> list[QueueState]:
    """All queues. Raises: EngineUnavailable."""
    depths = engine_depths()
    if depths is None:
        raise EngineUnavailable
    with service_scope("queues"), connection.cursor() as cursor:
        sending, waiting = facts.outbox(cursor), _waiting(cursor)
        truth = {SENDING: (sending, waiting), INBOUND: (facts.inbox(cursor)["pending"],) * 2}
        alive = facts.alive(cursor)
    served = alive["both"] + alive["worker"]
    return [
        QueueState(
            name, *truth.get(name, (depths[name],) * 2), alive["both"] + alive["sender"] if name == SENDING else served
        )
        for name in NAMES
    ]


def find_queue(name: str) -> QueueState:
    """One queue. Raises: UnknownQueue, EngineUnavailable."""
    return next(queue for queue in list_queues() if queue.name == _known(name))


def purge_queue(*, name: str, now: datetime) -> int:
    """Empty a queue; returns how many it held. Audited.

    The outbox's messages end as FAILED `PURGED`. Of every other queue only wake-ups are dropped: what they were for
    stands in PostgreSQL and is done later. Raises: UnknownQueue, EngineUnavailable.
    """
    count = purge_outbox(now=now) if _known(name) == SENDING else _drop_tasks(name)
    with service_scope("purge of a queue"):
        write_audit(tenant_id=None, actor=None, action="queue.purged", changes={"queue": name, "purged": count})
    return count


def _known(name: str) -> str:
    if name not in NAMES:
        raise UnknownQueue
    return name


def _drop_tasks(name: str) -> int:
    try:
        with app.connection_for_write() as engine, engine.channel() as channel:
            purge: Callable[[str], int | None] = channel.queue_purge  # type: ignore[attr-defined]
            return purge(name) or 0
    except ChannelError:
        return 0  # nobody has put anything there yet
    except (KombuError, *UNAVAILABLE) as error:
        raise EngineUnavailable from error


def _waiting(cursor: facts.Cursor) -> int:
    cursor.execute(
        """SELECT count(*) FROM tickets_message
           WHERE status = 'QUEUED' AND (not_before IS NULL OR not_before <= now())"""
    )
    return int(cursor.fetchall()[0][0])
