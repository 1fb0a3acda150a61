"""A recording through the running product: nothing lost, nothing doubled (spec/inbound.md 17.22).

REPLAY_EVENTS=36000 runs it at full length; without it a short form runs.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.desk import Desk
from tests.product import ROOT, Product
from tests.whatsapp.inbound import text_event

EVENTS = int(os.environ.get("REPLAY_EVENTS", "1200"))
REPEATED = 0.2  # so much of the recording came a second time


def manage(product: Product, *arguments: str) -> Any:
    """A command beside the product; the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments, "--json"], cwd=ROOT, env={**os.environ, **product.env},
        capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_inbound_22_a_recording_replayed_without_gaps_loses_and_doubles_nothing(
    product: Product, tmp_path: Path
) -> None:
    desk, run = Desk(product, "replay", "Replay"), uuid.uuid4().hex[:8]
    since = datetime.now(UTC).isoformat()
    shuffle = random.Random(22)
    once = round(EVENTS / (1 + REPEATED))
    numbers = [*range(once), *(shuffle.randrange(once) for _ in range(EVENTS - once))]
    file = tmp_path / "recording.jsonl"
    with file.open("w") as out:
        for number in numbers:
            phone = f"+55119{70_000_000 + number % 400}"
            event = text_event(
                f"mensagem {number}", external_id=f"{run}-{number}", phone=phone, instance=desk.line_id,
                name=f"Cliente {number % 400}",
            )  # fmt: skip
            headers = {"content-type": "application/json", "x-api-key": "recorded", "x-signature": "0" * 64}
            out.write(json.dumps({"headers": headers, "body": json.dumps(event)}) + "\n")
    url = f"{product.url}/api/integrations/whatsapp/webhook"
    played = manage(
        product, "replay_webhooks", "--file", str(file), "--speed", "0", "--concurrency", "8", "--resign", "--url", url
    )  # fmt: skip
    assert (played["posted"], played["statuses"]) == (EVENTS, {"202": EVENTS})
    proof = manage(product, "prove_no_loss", "--since", since, "--wait", "600")
    assert proof["ok"] is True
    stored = desk.rows("SELECT external_id FROM tickets_message WHERE external_id LIKE %s", f"{run}-%")
    assert len(stored) == once
    assert {name for (name,) in stored} == {f"{run}-{number}" for number in range(once)}
    fates = desk.rows(
        """SELECT i.fate, count(*) FROM whatsapp_webhookitem i WHERE i.external_id LIKE %s GROUP BY i.fate""",
        f"{run}-%",
    )
    assert dict(fates) == {"stored": once, "duplicate": EVENTS - once}
    again = manage(product, "reprocess_webhook_events", "--since", since, "--limit", "300")
    assert again["events"] == 300
    assert manage(product, "prove_no_loss", "--since", since, "--wait", "60")["ok"] is True
    assert desk.value("SELECT count(*) FROM tickets_message WHERE external_id LIKE %s", f"{run}-%") == once
