"""Currencies of ISO 4217 and their minor units: how many decimals an amount has."""

from decimal import Decimal

_EXPONENTS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF "
        "CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL "
        "HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP "
        "MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD "
        "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS "
        "VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "UYW",
}
EXPONENTS = {code: exponent for exponent, codes in _EXPONENTS.items() for code in codes.split()}


def known_currency(code: str) -> str:
    """The code itself. Raises ValueError for one that ISO 4217 does not list."""
    if code not in EXPONENTS:
        raise ValueError("must be a currency of ISO 4217 such as TWD")
    return code


def minor_units(amount: Decimal, currency: str) -> int:
    """An amount in minor units. Raises ValueError where it has more decimals than the currency."""
    if not amount.is_finite() or amount.adjusted() > 15:
        raise ValueError("is not a price that can be charged")
    if amount < 0:
        raise ValueError("must not be negative")
    exponent = EXPONENTS[currency]
    # Trailing zeros say nothing: 800.00 yen are 800.
    digits = amount.normalize().as_tuple().exponent
    assert isinstance(digits, int)
    if -digits > exponent:
        raise ValueError(f"has more decimals than {currency} ({exponent})")
    return int(amount.scaleb(exponent))


def major_units(amount: int, currency: str) -> str:
    """Minor units as people write the amount: `(80000, "TWD")` is `800.00`."""
    return str(Decimal(amount).scaleb(-EXPONENTS.get(currency, 2)))
