"""The socket of an instance: QR, pairing, open, close, reconnect (spec/broker.md section 3)."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from typing import Any, Literal

import segno

from whatsapp.simulator.background import Background
from whatsapp.simulator.ids import Ids
from whatsapp.simulator.wire import PHONE_SERVER, Json, iso

State = Literal["connecting", "open", "close", "qr_timeout"]
FIRST_QR_SECONDS = 60
NEXT_QR_SECONDS = 20
QR_ROUNDS = 6
HANDSHAKE_SECONDS = 0.2
WIPE_SECONDS = 0.3
RECONNECT_MAX_SECONDS = 30
LOGGED_OUT = 401
TIMED_OUT = 408
REASONS = {
    401: "Logged Out",
    403: "Forbidden",
    408: "Connection Lost",
    411: "Multi-device mismatch",
    428: "Connection Closed",
    440: "Connection Replaced",
    500: "Bad Session",
    503: "Service Unavailable",
    515: "Restart Required",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What a socket needs from around it."""

    ids: Ids
    background: Background
    reachable: Callable[[str], bool]
    changed: Callable[[str, str], None]  # instance id, reason: connection, qr, pairing or error


class Connection:
    """The state machine; one timer runs at a time, and each change of state replaces it."""

    def __init__(self, instance_id: str, line: Line) -> None:
        self._instance_id = instance_id
        self._line = line
        self._timer: asyncio.Task[None] | None = None
        self.state: State = "connecting"
        self.updated_at = _now_ms()
        self.detail: Json | None = None
        self.phone: str | None = None
        self.user_name: str | None = None
        self.paired_at: int | None = None
        self.qr: str | None = None
        self.qr_version = 0
        self.qr_received_at: int | None = None
        self.qr_expires_at: int | None = None
        self._round = 0
        self.pairing_attempts = 0
        self.last_error: str | None = None
        self._picture: tuple[str, bytes] | None = None

    @property
    def user(self) -> Json | None:
        """The account, known while the instance is paired and connected."""
        if self.state != "open" or self.phone is None:
            return None
        return {"id": f"{self.phone}:1{PHONE_SERVER}", "name": self.user_name}

    @property
    def own_jid(self) -> str:
        """The account's JID; before any pairing a number that nobody has."""
        return (self.phone or "5500000000000") + PHONE_SERVER

    def error_fields(self, state: str | None = None) -> Json:
        """Writes what an error says about the link; strings, as everything in an error."""
        return {"state": state or self.state, "updatedAt": iso(self.updated_at / 1000)}

    def start(self) -> None:
        """Connects: a paired instance opens, any other shows a QR."""
        self._move("connecting")
        self._run(self._reconnect(0) if self.paired_at else self._show_codes())

    def restore(self, saved: Json) -> None:
        """Takes up a session of an earlier process: what was open is open at once, what was paired reconnects."""
        self.phone, self.user_name, self.paired_at = saved["phone"], saved["userName"], saved["pairedAt"]
        if saved["open"]:
            self.open(self.phone, self.user_name)
        else:
            self.start()

    def open(self, phone: str | None = None, user_name: str | None = None) -> None:
        """Connects at once, as after a scan; without a phone the instance keeps its own or gets one."""
        self.phone = phone or self.phone or self._invented_phone()
        self.user_name = user_name or self.user_name or self._instance_id
        self.paired_at = self.paired_at or _now_ms()
        self.detail = self.last_error = None
        self._clear_qr()
        self._run(None)
        self._move("open")

    def close(self, code: int) -> None:
        """Loses the link for the reason of `code`; it comes back by itself, except after a logout (401)."""
        if code == LOGGED_OUT:
            self.wipe(logged_out=True)
            return
        self._clear_qr()
        self.detail = _detail(code)
        self.last_error = REASONS[code]
        waits_for_scan = self.paired_at is None
        self._move("qr_timeout" if waits_for_scan and code == TIMED_OUT else "close")
        self._run(None if self.state == "qr_timeout" else self._reconnect(1))

    def wipe(self, *, logged_out: bool = False) -> None:
        """Forgets the account and starts again with a new QR."""
        self._unpair()
        self.detail = _detail(LOGGED_OUT) if logged_out else None
        self._move("connecting")
        self._run(self._show_codes())

    def wipe_later(self) -> None:
        """Wipes soon: the broker answers such a request before it has done it."""
        self._run(self._wipe_soon())

    def next_qr(self) -> None:
        """Shows the next QR at once; a paired instance is unpaired first."""
        if self.paired_at:
            self._unpair()
        shown = min(self._round + 1, QR_ROUNDS - 1) if self.qr else 0
        self._move("connecting")
        self._show(shown)
        self._run(self._wait_for_scan())

    def pairing_code(self) -> str:
        """Makes an eight-character code to type on the phone."""
        self.pairing_attempts += 1
        rng = self._line.ids.rng("pairing", self._instance_id, str(self.pairing_attempts))
        self._line.changed(self._instance_id, "pairing")
        return "".join(rng.choices("123456789ABCDEFGHJKLMNPQRSTVWXYZ", k=8))

    def stop(self) -> None:
        """Ends the socket for good."""
        self.state = "close"
        self._run(None)

    def picture(self) -> bytes | None:
        """Draws the QR as a PNG of at least 200 px; None while there is none."""
        if self.qr is None:
            return None
        if self._picture is None or self._picture[0] != self.qr:
            out = BytesIO()
            segno.make_qr(self.qr, error="l").save(out, kind="png", scale=5, border=4)
            self._picture = (self.qr, out.getvalue())
        return self._picture[1]

    def details(self) -> Json:
        """Writes the part of the snapshot that only the socket knows."""
        return {
            "connectionStateDetail": self.detail,
            "user": self.user,
            "qrVersion": self.qr_version,
            "hasLastQr": self.qr is not None,
            "qrReceivedAt": self.qr_received_at,
            "qrExpiresAt": self.qr_expires_at,
            "pairingAttempts": self.pairing_attempts,
            "lastError": self.last_error,
        }

    async def _show_codes(self) -> None:
        await asyncio.sleep(HANDSHAKE_SECONDS)
        self._show(0)
        await self._wait_for_scan()

    async def _wait_for_scan(self) -> None:
        """Renews the QR as it runs out, and gives up after the last."""
        while True:
            await asyncio.sleep(_lifetime(self._round))
            if self._round + 1 == QR_ROUNDS:
                break
            self._show(self._round + 1)
        self._timer = None  # close() ends the running timer, and that is this one
        self.close(TIMED_OUT)

    async def _reconnect(self, delay: float) -> None:
        """Tries until the link is back, with waits of 1, 2, 4 ... 30 s."""
        while True:
            await asyncio.sleep(delay)
            self._move("connecting")
            await asyncio.sleep(HANDSHAKE_SECONDS)
            if self._line.reachable(self._instance_id):
                break
            self.detail = _detail(TIMED_OUT)
            self._move("close")
            delay = min(max(1, delay * 2), RECONNECT_MAX_SECONDS)
        self._timer = None
        if self.paired_at:
            self.open()
        else:
            self.start()

    async def _wipe_soon(self) -> None:
        await asyncio.sleep(WIPE_SECONDS)
        self._timer = None
        self.wipe()

    def _run(self, work: Coroutine[Any, Any, None] | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._line.background.spawn(work) if work is not None else None

    def _move(self, state: State) -> None:
        self.state = state
        self.updated_at = _now_ms()
        self._line.changed(self._instance_id, "error" if state in ("close", "qr_timeout") else "connection")

    def _unpair(self) -> None:
        self.phone = self.user_name = self.paired_at = None
        self._clear_qr()

    def _show(self, number: int) -> None:
        self._round = number
        self.qr_version += 1
        name = ("qr", self._instance_id, str(self.qr_version))
        parts = [b64encode(self._line.ids.secret(32, *name, part)).decode() for part in ("ref", "noise", "id", "adv")]
        self.qr = "2@" + ",".join(parts)
        self.qr_received_at = self.updated_at = _now_ms()
        self.qr_expires_at = self.qr_received_at + _lifetime(number) * 1000
        self._line.changed(self._instance_id, "qr")

    def _clear_qr(self) -> None:
        self.qr = self.qr_received_at = self.qr_expires_at = None

    def _invented_phone(self) -> str:
        digits = int.from_bytes(blake2b(self._instance_id.encode(), digest_size=4).digest()) % 10_000_000
        return f"55119{4_0000000 + digits:08d}"


def _lifetime(number: int) -> int:
    return NEXT_QR_SECONDS if number else FIRST_QR_SECONDS


def _detail(code: int) -> Json:
    return {
        "statusCode": code,
        "reason": REASONS[code],
        "isLoggedOut": code == LOGGED_OUT,
        "isTimedOut": code == TIMED_OUT,
    }


def _now_ms() -> int:
    return int(time.time() * 1000)
