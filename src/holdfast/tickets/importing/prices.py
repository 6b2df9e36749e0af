"""Prices and counts as catalogues write them. What can be read in two ways is refused.

1200  1200.00  0.5          as schema.org has it: a point before the decimals
1,200  1,200.00  1,200,000  grouped by commas
1200,50  1.200,50           a comma before one or two decimals
1 200  1'200.00             grouped by spaces or apostrophes
NT$1,200  12 EUR  €12.50    with a mark, if it agrees with the currency that is given
free  免費                   nothing to pay

1.200                       refused (a thousand two hundred, or one and a fifth?) but for currencies of three decimals
1,200                       refused for these
"""

import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple

from holdfast.currencies import EXPONENTS, minor_units
from holdfast.tickets.event_fields import PRICE_AMOUNT_MAX

_TEXT_LENGTH_MAX = 64
_FREE = frozenset({"free", "免費", "免费", "無料", "gratis", "kostenlos"})
_DOLLARS = frozenset({"AUD", "BBD", "BMD", "BND", "BSD", "BZD", "CAD", "FJD", "HKD", "JMD", "KYD", "LRD", "MXN", "NAD",
                      "NZD", "SBD", "SGD", "SRD", "TTD", "TWD", "USD", "XCD", "ARS", "CLP", "COP", "UYU"})  # fmt: skip
_MARKS = {
    "$": _DOLLARS, "NT$": {"TWD"}, "NTD": {"TWD"}, "NT": {"TWD"}, "US$": {"USD"}, "HK$": {"HKD"}, "A$": {"AUD"},
    "C$": {"CAD"}, "CA$": {"CAD"}, "S$": {"SGD"}, "NZ$": {"NZD"}, "€": {"EUR"}, "£": {"GBP"}, "¥": {"JPY", "CNY"},
    "円": {"JPY"}, "元": {"TWD", "CNY"}, "₩": {"KRW"}, "원": {"KRW"}, "₹": {"INR"}, "฿": {"THB"}, "zł": {"PLN"},
    "Kč": {"CZK"}, "kr": {"SEK", "NOK", "DKK", "ISK"}, "Fr.": {"CHF"}, "₺": {"TRY"}, "₫": {"VND"}, "₱": {"PHP"},
}  # fmt: skip

_PRICE = re.compile(r"([^\d.,'’\s+-][^\d.,'’\s+-]{0,3}\.?)?\s?(\d[\d.,'’ ]*?)\s?([^\d.,'’\s+-]{1,4})?", re.ASCII)
_PLAIN = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_COMMAS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_DECIMAL_COMMA = re.compile(r"\d+,\d{1,2}", re.ASCII)
_POINTS = re.compile(r"\d{1,3}(?:\.\d{3})+,\d{1,2}|\d{1,3}(?:\.\d{3}){2,}", re.ASCII)
_SPACES = re.compile(r"\d{1,3}(?:[ '’]\d{3})+(?:[.,]\d{1,2})?", re.ASCII)
_ONE_GROUP_POINT = re.compile(r"[1-9]\d{0,2}\.\d{3}", re.ASCII)
_ONE_GROUP_COMMA = re.compile(r"\d{1,3},\d{3}", re.ASCII)
_COUNT = re.compile(r"\d{1,12}(?:\.0+)?|\d{1,3}(?:,\d{3}){1,3}", re.ASCII)


class PriceRead(NamedTuple):
    """Minor units; the currency is None only for nothing to pay in no currency."""

    amount: int
    currency: str | None


def read_price(value: object, currency: str | None) -> PriceRead:
    """A price in major units, a JSON number or a text. Raises ValueError with the reason."""
    codes = {_known(currency)} if currency else None
    number: str | int | Decimal
    if isinstance(value, str):
        number, codes = _of_text(value, codes)
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = value
    else:
        raise ValueError("is neither a number nor a text")
    if number == 0:
        return PriceRead(0, next(iter(codes)) if codes and len(codes) == 1 else None)
    if not codes or len(codes) > 1:
        raise ValueError("has no currency that is certain; priceCurrency must name one")
    (code,) = codes
    amount = minor_units(_decimal(number, EXPONENTS[code]) if isinstance(number, str) else Decimal(number), code)
    if amount > PRICE_AMOUNT_MAX:
        raise ValueError("is beyond what can be charged")
    return PriceRead(amount, code)


def read_count(value: object) -> int:
    """A number of tickets. Raises ValueError with the reason."""
    if isinstance(value, str) and _COUNT.fullmatch(value.strip()):
        value = Decimal(value.strip().replace(",", ""))
    if (
        isinstance(value, int | Decimal)
        and not isinstance(value, bool)
        and 0 <= value <= 10**12
        and value == int(value)
    ):
        return int(value)
    raise ValueError("is not a whole number of tickets")


def _known(currency: str) -> str:
    code = currency.strip().upper()
    if code not in EXPONENTS:
        raise ValueError(f"has {currency.strip()[:20]!r} for a currency, which ISO 4217 does not list")
    return code


def _of_text(text: str, codes: set[str] | None) -> tuple[str | int, set[str] | None]:
    if len(text) > _TEXT_LENGTH_MAX:
        raise ValueError("is too long to be a price")
    text = unicodedata.normalize("NFKC", text).strip()
    if text.casefold() in _FREE:
        return 0, codes
    match = _PRICE.fullmatch(text)
    if match is None:
        raise ValueError(f"is {text!r}, not one price")
    before, number, after = match.groups()
    for mark in filter(None, (before, after)):
        meant = {mark.upper()} if mark.upper() in EXPONENTS else _MARKS.get(mark)
        if meant is None:
            raise ValueError(f"has an unknown mark, {mark!r}")
        codes = set(meant) if codes is None else codes & meant
        if not codes:
            raise ValueError(f"is marked {mark!r}, which is not its currency")
    return (0, codes) if re.fullmatch(r"0+(?:[.,]0+)?", number, re.ASCII) else (number, codes)


def _decimal(number: str, exponent: int) -> Decimal:
    """The value of a number's text; `exponent` is how many decimals its currency has."""
    ambiguous = _ONE_GROUP_COMMA if exponent == 3 else _ONE_GROUP_POINT
    if ambiguous.fullmatch(number):
        raise ValueError(f"is {number!r}, which can be read in two ways")
    if _PLAIN.fullmatch(number):
        return Decimal(number)
    if _COMMAS.fullmatch(number):
        return Decimal(number.replace(",", ""))
    if _DECIMAL_COMMA.fullmatch(number):
        return Decimal(number.replace(",", "."))
    if _POINTS.fullmatch(number):
        return Decimal(number.replace(".", "").replace(",", "."))
    if _SPACES.fullmatch(number):
        return Decimal(re.sub("[ '’]", "", number).replace(",", "."))
    raise ValueError(f"is {number!r}, not one price")
