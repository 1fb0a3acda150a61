"""Writes the frozen contracts of the realtime events: `.venv/bin/python -m tests.payloads.freeze`.

The structure of events is protected (seed 002): a contract changes together with a ProtectedChange entry only. Clients
may rely on a field that is in a contract; a new optional field harms nobody, anything else does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from leadengine.realtime.events import Event

CONTRACTS = Path(__file__).parent / "contracts"
MODULES = ("leadengine.realtime.events", "leads.events", "tickets.events", "whatsapp.events")
_PROSE = {"title", "description"}  # words may be improved at any time


def declared() -> dict[str, type[Event]]:
    """Every event of the product, by name."""
    homes = [import_module(name).__name__ for name in MODULES]
    return {event.name: event for event in _below(Event) if event.__module__ in homes}


def contract(event: type[Event]) -> str:
    """The JSON text of an event's contract: who gets it, and the schema of its `data`."""
    schema = _structure(event.model_json_schema(mode="serialization"))
    return json.dumps({"event": event.name, "audience": event.audience, "data": schema}, indent=2) + "\n"


def freeze() -> None:
    """Write one file for each event."""
    for name, event in declared().items():
        (CONTRACTS / f"{name}.json").write_text(contract(event), encoding="utf-8")


def _below(event: type[Event]) -> Iterator[type[Event]]:
    for child in event.__subclasses__():
        yield child
        yield from _below(child)


def _structure(node: Any, *, names: bool = False) -> Any:
    """The schema without its prose. Under `names` the keys are those of fields, which may be called `title`."""
    if isinstance(node, list):
        return [_structure(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _structure(value, names=not names and key in ("properties", "$defs"))
        for key, value in node.items()
        if names or key not in _PROSE
    }


if __name__ == "__main__":
    freeze()
