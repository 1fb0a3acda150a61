"""What a door may be asked to send: the payload union of spec/outbound.md section 2."""

from __future__ import annotations

import json
import unicodedata
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from leadengine.errors import ValidationFailed
from leadengine.ssrf import is_private_host
from leadengine.validation import refusal

METADATA_BYTES = 8192
_ELSEWHERE = {"reply_to", "external_id", "upload_id", "media_url", "media"}  # fields of other columns and tables


# Letters, marks and signs that are drawn as nothing: fillers, joiners, variation selectors, the empty braille cell.
_DRAWN_AS_NOTHING = {*"\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0", *map(chr, range(0xFE00, 0xFE10))}


def _telling(value: str) -> str:
    """Refuse what shows nothing: blanks, zero-width and control characters."""
    if all(unicodedata.category(letter)[0] in "ZC" or letter in _DRAWN_AS_NOTHING for letter in value):
        raise ValueError("O texto está em branco.")
    return value


def _fetchable(value: str) -> str:
    """An absolute http(s) address that is not plainly ours; names are resolved before the send (outbox/media_guard)."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise ValueError("Deve ser um endereço http(s) absoluto.")
    if not settings.OUTBOUND_MEDIA_ALLOW_PRIVATE and is_private_host(parts.hostname):
        raise ValueError("O endereço não é público.")
    return value


Url = Annotated[str, Field(max_length=2048), AfterValidator(_fetchable)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, strict=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        # PostgreSQL stores neither U+0000 nor a lone surrogate, and one of them would fail the whole request.
        if isinstance(value, str | dict):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value
            zero = "\\u0000" if isinstance(value, dict) else "\0"
            if zero in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError("Contém um caractere inválido.")
        return value


class Payload(_Part):
    """What every type has. `kind` is the type of the row; `content` what the thread shows."""

    kind: ClassVar[str]

    reply_to: UUID | None = Field(None, strict=False)
    external_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _small_metadata(self) -> Self:
        if len(json.dumps(self.metadata, ensure_ascii=False).encode()) > METADATA_BYTES:
            raise ValueError(f"metadata: No máximo {METADATA_BYTES} bytes.")
        return self

    @property
    def content(self) -> str:
        return ""

    @property
    def caption(self) -> str | None:
        return None

    def stored(self) -> dict[str, Any]:
        """The payload as the row keeps it and the transport gets it: JSON, without what has a column of its own."""
        kept = self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_ELSEWHERE)
        return kept if self.metadata else {name: value for name, value in kept.items() if name != "metadata"}

    def shown(self) -> dict[str, Any]:
        """What Message.metadata shows of it."""
        return {}


class TextPayload(Payload):
    kind = "TEXT"

    type: Literal["text"] = "text"
    text: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_telling)] = Field(
        validation_alias=AliasChoices("text", "content", "message")
    )
    preview_url: bool | None = None

    @property
    def content(self) -> str:
        return self.text


class MediaSource(_Part):
    url: Url
    mimetype: Annotated[str, Field(max_length=120)] | None = None
    filename: Annotated[str, Field(max_length=255)] | None = None
    size: int | None = Field(None, ge=0)


class MediaPayload(Payload):
    """A file: an upload by its id, or an address, which ends in `media` whichever way it was given."""

    upload_id: UUID | None = Field(None, strict=False)
    media_url: Url | None = None
    media: MediaSource | None = None
    mime_type: Annotated[str, Field(max_length=120)] | None = None
    file_name: Annotated[str, Field(max_length=255)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if [self.upload_id, self.media_url, self.media].count(None) != 2:
            raise ValueError("mediaUrl: Informe uploadId, mediaUrl ou media, um dos três.")
        if self.media_url is not None:
            self.media = MediaSource.model_construct(url=self.media_url, mimetype=None, filename=None, size=None)
        if self.media is not None:
            self.mime_type = self.mime_type or self.media.mimetype
            self.file_name = self.file_name or self.media.filename
        return self


class _Captioned(MediaPayload):
    caption_: Annotated[str, Field(max_length=1024)] | None = Field(None, alias="caption")

    @property
    def caption(self) -> str | None:
        return self.caption_


class ImagePayload(_Captioned):
    kind = "IMAGE"
    type: Literal["image"]


class VideoPayload(_Captioned):
    kind = "VIDEO"
    type: Literal["video"]


class DocumentPayload(_Captioned):
    kind = "DOCUMENT"
    type: Literal["document"]


class AudioPayload(MediaPayload):
    kind = "AUDIO"
    type: Literal["audio"]
    voice: bool = False


class Location(_Part):
    latitude: float = Field(ge=-90, le=90)
    longitude: float = Field(ge=-180, le=180)
    name: Annotated[str, Field(max_length=256)] | None = None
    address: Annotated[str, Field(max_length=256)] | None = None
    url: Annotated[str, Field(max_length=2048)] | None = None


class LocationPayload(Payload):
    kind = "LOCATION"
    type: Literal["location"]
    location: Location

    @property
    def content(self) -> str:
        return self.location.name or self.location.address or ""

    def shown(self) -> dict[str, Any]:
        return {"location": self.location.model_dump(exclude_none=True)}


class Email(_Part):
    email: Annotated[str, Field(min_length=3, max_length=254)]
    type: Annotated[str, Field(max_length=40)] | None = None


class Phone(_Part):
    phone_number: Annotated[str, Field(min_length=3, max_length=40)]
    type: Annotated[str, Field(max_length=40)] | None = None
    wa_id: Annotated[str, Field(max_length=40)] | None = None


class Card(_Part):
    full_name: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    organization: Annotated[str, Field(max_length=255)] | None = None
    emails: list[Email] = Field(default_factory=list, max_length=10)
    phones: list[Phone] = Field(default_factory=list, max_length=10)
    vcard: Annotated[str, Field(min_length=1, max_length=16_384)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.full_name or self.phones or self.emails or self.vcard):
            raise ValueError("Informe fullName, phones, emails ou vcard.")
        return self

    def shown(self) -> dict[str, Any]:
        """The card as the thread shows cards: {displayName, phones[], vcard}."""
        phones = [phone.phone_number for phone in self.phones]
        name = self.full_name or self.organization or next(iter(phones), "")
        return {"displayName": name, "phones": phones, "vcard": self.vcard}


class ContactPayload(Payload):
    kind = "CONTACT"
    type: Literal["contact"]
    contact: Card | None = None
    contacts: list[Card] | None = Field(None, min_length=1, max_length=10)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.contact is None) == (self.contacts is None):
            raise ValueError("contact: Informe contact ou contacts, um dos dois.")
        return self

    @property
    def cards(self) -> list[Card]:
        """The cards, however they were given."""
        return self.contacts or ([self.contact] if self.contact else [])

    @property
    def content(self) -> str:
        return ", ".join(name for card in self.cards if (name := card.shown()["displayName"]))

    def shown(self) -> dict[str, Any]:
        return {"contacts": [card.shown() for card in self.cards]}


class Language(_Part):
    code: Annotated[str, Field(min_length=2, max_length=20)]
    policy: Annotated[str, Field(max_length=40)] | None = None


class Template(_Part):
    name: Annotated[str, Field(min_length=1, max_length=512)]
    namespace: Annotated[str, Field(max_length=128)] | None = None
    language: Annotated[str, Field(min_length=2, max_length=20)] | Language
    components: list[dict[str, Any]] | None = None


class TemplatePayload(Payload):
    kind = "TEMPLATE"
    type: Literal["template"]
    template: Template

    @property
    def content(self) -> str:
        return self.template.name


class Poll(_Part):
    question: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_telling)]
    options: list[Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_telling)]] = Field(
        min_length=2, max_length=12
    )
    allow_multiple_answers: bool = False

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.options)) < len(self.options):
            raise ValueError("As opções devem ser diferentes.")
        return self


class PollPayload(Payload):
    kind = "POLL"
    type: Literal["poll"]
    poll: Poll

    @property
    def content(self) -> str:
        return self.poll.question

    def shown(self) -> dict[str, Any]:
        many = len(self.poll.options) if self.poll.allow_multiple_answers else 1
        return {"poll": {"question": self.poll.question, "options": self.poll.options, "selectable": many}}


AnyPayload = (
    TextPayload | ImagePayload | VideoPayload | DocumentPayload | AudioPayload | LocationPayload | ContactPayload
    | TemplatePayload | PollPayload
)  # fmt: skip
PAYLOADS: dict[str, type[Payload]] = {
    "text": TextPayload,
    "image": ImagePayload,
    "video": VideoPayload,
    "document": DocumentPayload,
    "audio": AudioPayload,
    "location": LocationPayload,
    "contact": ContactPayload,
    "template": TemplatePayload,
    "poll": PollPayload,
}


def parse_payload(raw: dict[str, Any]) -> Payload:
    """The typed payload of a JSON object. Raises: ValidationFailed with every bad field in `details.errors`."""
    word = raw.get("type", "text")
    kind = word.strip().lower() if isinstance(word, str) else ""
    model = PAYLOADS.get(kind)
    if model is None:
        raise ValidationFailed([{"field": "type", "message": "Deve ser um de: " + ", ".join(PAYLOADS) + "."}])
    try:
        return model.model_validate({**raw, "type": kind})
    except ValidationError as error:
        raise refusal(error) from error
