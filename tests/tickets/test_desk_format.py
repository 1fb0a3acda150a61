"""WhatsApp's text format, and the small words of the desk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tickets.templatetags.desk import emoji_only, initials, phone, playing_time, waited, whatsapp

LINK = '<a href="{0}" target="_blank" rel="noopener noreferrer nofollow">{0}</a>'


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("*bold* and _italic_ and ~gone~", "<strong>bold</strong> and <em>italic</em> and <s>gone</s>"),
        ("*_both_*", "<strong><em>both</em></strong>"),
        ("```mono *not bold*```", "<pre>mono *not bold*</pre>"),
        ("`code`", "<code>code</code>"),
        ("2*3*4 and snake_case_name", "2*3*4 and snake_case_name"),
        ("* not bold *", "* not bold *"),
        ("*two\nlines*", "*two\nlines*"),
        ("see https://a.test/x_y_z.", "see " + LINK.format("https://a.test/x_y_z") + "."),
        ("(http://a.test)", "(" + LINK.format("http://a.test") + ")"),
        ("javascript:alert(1) ftp://x data:text/html,x", "javascript:alert(1) ftp://x data:text/html,x"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("*<b>x</b>*", "<strong>&lt;b&gt;x&lt;/b&gt;</strong>"),
        ('https://a.test/"onx="y', LINK.format("https://a.test/") + "&quot;onx=&quot;y"),
        ("```<svg/onload=x>```", "<pre>&lt;svg/onload=x&gt;</pre>"),
        ("https://a.test/?a=1&b=2", LINK.format("https://a.test/?a=1&amp;b=2")),
    ],
)
def test_text_is_formatted_and_escaped(written: str, shown: str) -> None:
    assert whatsapp(written) == shown


def test_a_long_hostile_text_costs_little() -> None:
    for text in ("*" * 65_000, "_a" * 32_000, "`" * 65_000, "https://" * 8_000, "*_~" * 20_000):
        began = datetime.now(UTC)
        whatsapp(text)
        assert datetime.now(UTC) - began < timedelta(seconds=2)


def test_waiting_is_told_against_the_target() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    levels = [waited(now - timedelta(minutes=minutes), 15, now)[0] for minutes in (0, 7, 8, 14, 15, 90)]
    assert levels == ["calm", "calm", "soon", "soon", "late", "late"]


def test_names_and_numbers() -> None:
    assert [initials(name) for name in ("Maria Souza", "Ana", "👑 Bia 👑", "", "+55 11")] == ["MS", "A", "B", "#", "#"]
    assert phone("+5511988887777") == "+55 11 98888-7777"
    assert phone("120363@g.us") == "120363@g.us"
    assert playing_time(67) == "1:07"
    assert emoji_only("❤️😍")
    assert not emoji_only("ok 👍")
