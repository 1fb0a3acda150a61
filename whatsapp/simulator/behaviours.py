"""How an instance misbehaves: the validated keys of the table in spec/broker.md section 8."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Profile = Literal["demo", "real"]
Status = Annotated[int, Field(ge=0, le=5)]
Milliseconds = Annotated[float, Field(ge=0)]


class WireModel(BaseModel):
    """A JSON object of the control API: camelCase keys, and a key it does not know is an error."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Rate(WireModel):
    """At most `max` sends per sliding window."""

    max: int = Field(ge=0)
    window_ms: int = Field(default=15_000, gt=0)


class Risk(WireModel):
    """The share of strangers above which sends to strangers are refused."""

    threshold: float = Field(ge=0, le=1)


class WebhookFaults(WireModel):
    """What goes wrong between the broker and the webhook; an empty `apiKey` sends no such header."""

    api_key: str | None = None
    hmac_secret: str | None = None
    bearer: str | None = None
    retry_scale: float = Field(default=1, ge=0)
    duplicate: int = Field(default=1, ge=1, le=20)
    shuffle: int = Field(default=0, ge=0, le=1000)
    delay_ms: Milliseconds = 0
    drop_canonical: bool = False
    drop_raw: bool = False


class Encoding(WireModel):
    """How bytes and 64-bit numbers of raw messages are written (spec/inbound.md section 6)."""

    bytes: Literal["base64", "map", "buffer"] = "base64"
    longs: Literal["string", "object"] = "string"


class CdnFaults(WireModel):
    """What goes wrong at the media server."""

    fail_seconds: float = Field(default=0, ge=0)
    gone: bool = False
    corrupt: bool = False
    redirect_to: str | None = None


class Behaviour(WireModel):
    """Everything that can be set; the defaults are those of the table."""

    send_delay_ms: Milliseconds = 0
    humanize_ms_per_char: Milliseconds = 0
    send_timeout: bool = False
    send_timeout_ms: Milliseconds = 25_000
    drop_response: bool = False
    fail_after_send: bool = False
    send_error: str | None = None
    offline: bool = False
    socket_unavailable: bool = False
    rate: Rate = Rate(max=20)
    risk: Risk = Risk(threshold=1)
    exists: bool = True
    auto_ack: tuple[Status, ...] | None = None  # None: 2 and 3, and living customers read in their own time
    ack_delay_ms: Milliseconds = 300
    webhook: WebhookFaults = WebhookFaults()
    lid: bool | Literal["only"] = False
    encoding: Encoding = Encoding()
    cdn: CdnFaults = CdnFaults()


PROFILES: dict[Profile, dict[str, Any]] = {
    # A demo is also a load target: the limits of the real broker would throttle the load, not the product.
    "demo": {"rate": {"max": 1_000_000}, "risk": {"threshold": 1}},
    "real": {"humanizeMsPerChar": 200, "rate": {"max": 20}, "risk": {"threshold": 0.7}},
}
KNOWN_KEYS = sorted(to_camel(name) for name in Behaviour.model_fields)


class Behaviours:
    """Three layers, the later wins: the profile, what was set for all, what was set for one instance."""

    def __init__(self, profile: Profile) -> None:
        self._profile = PROFILES[profile]
        self._all: dict[str, Any] = {}
        self._one: dict[str, dict[str, Any]] = {}
        self._resolved: dict[str, Behaviour] = {}

    def of(self, instance_id: str) -> Behaviour:
        """Gives the behaviour of an instance; it is resolved once per change, since every send asks."""
        if instance_id not in self._resolved:
            layers = _merge(_merge(self._profile, self._all), self._one.get(instance_id, {}))
            self._resolved[instance_id] = Behaviour.model_validate(layers)
        return self._resolved[instance_id]

    def set(self, keys: dict[str, Any], instance_id: str | None = None) -> None:
        """Adds keys for one instance or for all; null takes a key back, `{}` resets (for all: every instance too).

        Raises:
            pydantic.ValidationError: an unknown key or a value of the wrong kind; nothing is changed.
        """
        layer = self._all if instance_id is None else self._one.get(instance_id, {})
        layer = _merge(layer, keys) if keys else {}
        Behaviour.model_validate(_merge(self._profile, layer))
        if instance_id is not None:
            self._one[instance_id] = layer
        else:
            self._all = layer
            if not keys:
                self._one.clear()
        self._resolved.clear()

    def layers(self) -> dict[str, Any]:
        """Shows what was set, without the defaults."""
        return {"all": self._all, "instances": {name: keys for name, keys in self._one.items() if keys}}


def _merge(base: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in keys.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict) and isinstance(merged.get(name), dict):
            merged[name] = _merge(merged[name], value)
        else:
            merged[name] = value
    return merged
