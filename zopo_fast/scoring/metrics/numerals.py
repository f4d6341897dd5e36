"""Numbers in text: one key for all ways to write a number, so that "1,234.50" and "1234.5" are equal."""

from __future__ import annotations

import re
from typing import NamedTuple

CURRENCIES = "$¢£¤¥֏؋৲৳૱௹฿៛\u20a0-\u20cf"
"""Currency signs, as the inside of a character class."""

_CHUNK = re.compile(
    rf"([+-]?)((?:[a-z]{{1,3}}(?=\$))?[{CURRENCIES}]|)([+-]?)(\d[\d,.']*|\.\d+)"
    rf"(?:e([+-]?\d{{1,9}}))?([%‰{CURRENCIES}]?)"
)
_PLAIN = re.compile(r"(\d*)(?:\.(\d*))?")
_GROUPED = re.compile(
    r"(\d{1,3}(?:,\d{3})+)(?:\.(\d*))?"
    r"|(\d{1,3}(?:'\d{3})+)(?:\.(\d*))?"
    r"|(\d{1,2}(?:,\d{2})+,\d{3})(?:\.(\d*))?"  # 12,34,567 as in India
    r"|(\d{1,3}(?:\.\d{3})+),(\d+)"  # 1.234,5: only the last sign can be the decimal one
    r"|(\d{1,3}(?:\.\d{3}){2,})"  # 1.234.567; 1.234 has a decimal point
)


class Number(NamedTuple):
    """Number as written in a text.

    Attributes:
        value: key of the value; equal for equal values.
        unit: percent or currency sign, or "".
    """

    value: str
    unit: str


def parse_number(chunk: str) -> Number | None:
    """Return the number that a chunk of folded text is, or None.

    A comma groups digits only where all groups are complete: "1,5" is no number here. Digits with a leading
    zero ("007"), dates, versions and addresses ("1.2.3") are no numbers either.
    """
    match = _CHUNK.fullmatch(chunk)
    if match is None:
        return None
    sign, before, second_sign, body, exponent, after = match.groups()
    parts = _digits(body)
    if parts is None or (sign and second_sign) or (before and after):
        return None
    whole, fraction = parts
    if len(whole) > 1 and whole[0] == "0":
        return None
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return Number("0e0", before or after)
    power = int(exponent or 0) - len(fraction) + len(digits) - len(significant)
    minus = "-" if "-" in (sign, second_sign) else ""
    return Number(f"{minus}{significant}e{power}", before or after)


def _digits(body: str) -> tuple[str, str] | None:
    """Return the digits before and after the decimal sign, without separators of groups."""
    if match := _PLAIN.fullmatch(body):
        return match[1], match[2] or ""
    if match := _GROUPED.fullmatch(body):
        whole, fraction = [group for group in match.groups() if group is not None] + [""] * (
            match.lastindex is not None and match.lastindex % 2
        )
        return re.sub("[,.']", "", whole), fraction
    return None
