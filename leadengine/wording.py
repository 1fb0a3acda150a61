"""What refusals say, in the caller's language: the code holds the Portuguese, a catalogue the English of each sentence.

`locale/en/LC_MESSAGES/errors.po` is a gettext catalogue of its own, for its msgids are Portuguese, and those of the
pages English. A sentence with a part that varies stands there with a name in braces for that part.
"""

from __future__ import annotations

import gettext
import re
from functools import cache

from django.conf import settings
from django.utils import translation

DOMAIN = "errors"
_HOLE = re.compile(r"\\\{(\w+)\\\}")  # as re.escape writes `{name}`


def worded(text: str) -> str:
    """A sentence of ours in the language of the request: Portuguese, or English to those who ask for it."""
    language = translation.get_language() or settings.LANGUAGE_CODE
    return find_english(text) or text if language.partition("-")[0] == "en" else text


def find_english(text: str) -> str | None:
    """The English of a sentence; None where the catalogue knows none, as for what a broker said itself."""
    sentences, patterns = _catalogue()
    if text in sentences:
        return sentences[text]
    for pattern, english in patterns:
        found = pattern.fullmatch(text)
        if found is not None:
            return english.format(**found.groupdict())
    return None


@cache
def _catalogue() -> tuple[dict[str, str], list[tuple[re.Pattern[str], str]]]:
    """The sentences by their Portuguese, and those with a part that varies, the most telling first."""
    loaded = gettext.translation(DOMAIN, str(settings.LOCALE_PATHS[0]), languages=["en"])
    sentences: dict[str, str] = {said: english for said, english in vars(loaded)["_catalog"].items() if said}
    varying = sorted((said for said in sentences if "{" in said), key=len, reverse=True)
    patterns = [(re.compile(_HOLE.sub(r"(?P<\1>.+)", re.escape(said)), re.DOTALL), sentences[said]) for said in varying]
    return sentences, patterns
