"""Text from elsewhere, made harmless for a terminal: a name, a log line, an error's words."""

from __future__ import annotations

_LAYOUT = "\n\t"


def plain(text: str, *, keep_lines: bool = False) -> str:
    """The text with control characters written out: a name that was logged cannot move the cursor or set a title.

    `keep_lines` leaves line breaks and tabs.
    """
    if text.isprintable():
        return text
    from unicodedata import category  # noqa: PLC0415 - start-up time, and seldom needed

    return "".join(
        c if (keep_lines and c in _LAYOUT) or category(c)[0] != "C" else c.encode("unicode_escape").decode()
        for c in text
    )
