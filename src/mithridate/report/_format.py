"""Words for numbers, and outside text made safe to show: shared by every renderer so that they agree.

Everything that reaches a report from outside (class names, paths, model names) passes `plain`: one line, no control
characters, no invisible direction marks. Escaping for the output format (HTML, Markdown, XML, CSV) comes after it.
"""

import math
import re
from datetime import UTC, datetime

NAME_LIMIT = 96
SENTENCE_LIMIT = 1200

# C0 and C1 controls, lone surrogates, line and paragraph separators, invisible and bidirectional marks, noncharacters.
# The two joiners (U+200C, U+200D) stay: Persian, Hindi and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def plain(text: str) -> str:
    r"""Make every invisible character visible: a newline becomes `␊`, a bidirectional override `\u202e`."""
    return _INVISIBLE.sub(_visible, text)


def plain_lines(text: str) -> str:
    """`plain` that keeps line breaks, for configuration blocks."""
    return "\n".join(plain(line) for line in text.split("\n"))


def shorten(text: str, limit: int) -> str:
    """Cut the middle out of a text longer than `limit` characters; beginning and end tell more than the middle."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 3
    return f"{text[: limit - 1 - tail]}…{text[-tail:] if tail else ''}"


def name(text: str) -> str:
    """A name from outside, on one line and of bounded length; a blank one is shown as `(empty)`."""
    return shorten(plain(text.strip()), NAME_LIMIT) or "(empty)"


def sentence(text: str) -> str:
    """Prose with outside names in it, on one line and of bounded length."""
    return shorten(plain(text.strip()), SENTENCE_LIMIT)


def unbroken(text: str) -> str:
    """Keep a number and its per cent sign on one line."""
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)


def percent(rate: float | None) -> str:
    """A share in [0, 1] as per cent with one decimal; `n/a` when there was nothing to count (0 of 0)."""
    return "n/a" if rate is None else f"{100 * rate:.1f}\N{NO-BREAK SPACE}%"


def percent_range(interval: tuple[float, float] | None) -> str:
    """An interval of shares: `64.0–94.8 %`."""
    return "n/a" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}\N{NO-BREAK SPACE}%"


def p_value(value: float | None) -> str:
    """A p-value to two significant digits, never rounded down to zero."""
    if value is None:
        return "n/a"
    if value < 1e-4:
        return "p < 0.0001"
    return f"p = {value:.2g}" if value < 0.1 else f"p = {value:.2f}"


def number(value: float | None, digits: int = 4) -> str:
    """A plain number to a few significant digits."""
    if value is None:
        return "n/a"
    return f"{value:.{digits}g}"


def fixed(value: float | None) -> str:
    """Two decimals with a typographic minus, for columns of cosines and probabilities; never `-0.00`."""
    if value is None:
        return "n/a"
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")


def scalar(value: str | int | float) -> str:
    """A value of the setting or of a paper's table: text as it is, numbers short."""
    if isinstance(value, str):
        return sentence(value)
    return str(value) if isinstance(value, int) else number(value)


def duration(seconds: float) -> str:
    """Seconds in the two largest units: `0.42 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.2g} s"
    whole = math.floor(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = math.floor(seconds / 60 + 0.5)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def instant(text: str) -> str:
    """An ISO 8601 time as `2026-11-14 10:22 UTC`; a time without a zone is shown without one."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        return f"{moment:%Y-%m-%d %H:%M}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def counted(count: int, noun: str) -> str:
    """`1 target`, `20 targets`; no other plurals are needed here."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
