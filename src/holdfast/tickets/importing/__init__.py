"""The import of real catalogues: schema.org events as JSON-LD, alone or in a saved HTML page, and CSV.

    reading    bytes to text to candidates: sniffs the format and hands on to one of the next three
    html_pages, jsonld, csv_rows    the formats; jsonld_event and jsonld_offers read one event
    prices, tiers, texts            what the formats share
    writer     candidates to rows: creates, updates, leaves alone, and reports

Everything but the writer is pure. What cannot be taken is reported with its place and the reason; nothing goes on
sale whose price, currency or number is not certain.
"""

from typing import Literal

Format = Literal["json", "html", "csv"]
