"""The texts of the letters, in Traditional Chinese and in English, and the messages made of them. No I/O in here.

Nothing that a buyer has typed is in a letter: addresses are not proved at registration, so that a name could be an
advertisement which we would send to a stranger.
"""

from datetime import datetime, tzinfo
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from asyncpg import Record

from holdfast import ids
from holdfast.currencies import major_units

_WEEKDAYS = "一二三四五六日"
_RULE = "-" * 60


class Letter(NamedTuple):
    """A letter that is due: to the buyer of an order, for one of the kinds of notify.letters; `origin` names the event
    that asked for it, and `tries` counts this one too."""

    order_id: UUID
    kind: str
    origin: str
    occurred_at: datetime
    tries: int


def message_of(letter: Letter, content: Record, sender: Address) -> EmailMessage | None:
    """The message, the same whenever it is made; None where there is no more reason or nobody to write to.

    Raises ValueError for an address that no header can hold.
    """
    body = _body_of(letter.kind, content)
    if body is None or content["email"] is None:
        return None
    order = ids.encode(ids.ORDER, letter.order_id)
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    local, _, domain = content["email"].rpartition("@")
    message["To"] = Address(username=local, domain=domain)
    message["Subject"] = " ".join(f"{_SUBJECTS[letter.kind]}: {content['name']}".split())
    message["Date"] = format_datetime(letter.occurred_at)
    message["Message-ID"] = f"<{letter.origin}.{order}@{sender.domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(body, cte="base64")
    message["Content-Language"] = "zh-Hant, en"
    return message


def _body_of(kind: str, content: Record) -> str | None:
    status, is_off = content["status"], content["event_status"] == "cancelled"
    if kind == "order.confirmed":
        # Of a cancelled event another letter tells, with this order in it.
        texts = _CONFIRMED if status == "confirmed" and not is_off else None
    elif status in ("confirmed", "refunded"):
        texts = _OFF_AND_BOUGHT
    else:
        # A hold that ran out by itself is nobody's surprise.
        texts = _OFF_AND_HELD if status in ("reserved", "cancelled") else None
    if texts is None:
        return None
    chinese, english = texts
    is_confirmed = texts is _CONFIRMED
    of_order = "\n".join(_details_chinese(content, with_tickets=is_confirmed))
    in_english = "\n".join(_details_english(content, with_tickets=is_confirmed))
    return f"{chinese}\n\n{of_order}\n\n{_RULE}\n\n{english}\n\n{in_english}\n"


def _details_chinese(content: Record, *, with_tickets: bool) -> list[str]:
    starts = content["starts_at"].astimezone(_zone(content["time_zone"]))
    when = f"{starts.year}年{starts.month}月{starts.day}日（{_WEEKDAYS[starts.weekday()]}）{starts:%H:%M}"
    lines = [
        f"訂單編號：{ids.encode(ids.ORDER, content['order_id'])}",
        f"活動：{content['name']}",
        f"時間：{when}（{content['time_zone']}）",
    ]
    if place := _place(content):
        lines.append(f"地點：{place}")
    lines.append("票種：")
    lines += [f"  {tier} × {count} 張，每張 {price or '免費'}" for tier, count, price in _lines(content)]
    lines.append(f"合計：{_amount(content['total_amount'], content['currency']) or '免費'}")
    if with_tickets:
        lines += ["票號：", *_tickets(content)]
    return lines


def _details_english(content: Record, *, with_tickets: bool) -> list[str]:
    starts = content["starts_at"].astimezone(_zone(content["time_zone"]))
    lines = [
        f"Order: {ids.encode(ids.ORDER, content['order_id'])}",
        f"Event: {content['name']}",
        f"Time: {starts:%A}, {starts.day} {starts:%B} {starts.year}, {starts:%H:%M} ({content['time_zone']})",
    ]
    if place := _place(content):
        lines.append(f"Place: {place}")
    lines.append("Tickets ordered:")
    lines += [f"  {count} × {tier}, {price or 'free'} each" for tier, count, price in _lines(content)]
    lines.append(f"Total: {_amount(content['total_amount'], content['currency']) or 'free'}")
    if with_tickets:
        lines += ["Ticket numbers:", *_tickets(content)]
    return lines


def _lines(content: Record) -> list[tuple[str, int, str]]:
    rows = zip(content["tiers"], content["quantities"], content["unit_prices"], strict=True)
    return [(tier, count, _amount(price, content["currency"])) for tier, count, price in rows]


def _tickets(content: Record) -> list[str]:
    rows = zip(content["ticket_ids"] or (), content["ticket_tiers"] or (), strict=True)
    return [f"  {ids.encode(ids.TICKET, ticket)}  {tier}" for ticket, tier in rows]


def _place(content: Record) -> str:
    return ", ".join(part for part in (content["venue_name"], content["venue_address"]) if part)


def _amount(amount: int, currency: str) -> str:
    """`TWD 1,600.00`; nothing for nothing."""
    whole, point, decimals = major_units(amount, currency).partition(".")
    return f"{currency} {int(whole):,}{point}{decimals}" if amount else ""


def _zone(name: str) -> tzinfo:
    """The zone of an event: an IANA zone, or a fixed offset such as +02:00."""
    if name[0] in "+-":
        fixed = datetime.fromisoformat(f"2000-01-01T00:00{name}").tzinfo
        assert fixed is not None
        return fixed
    return ZoneInfo(name)


_SUBJECTS = {"order.confirmed": "訂單成立 Order confirmed", "event.cancelled": "活動取消 Event cancelled"}

_CONFIRMED = (
    """\
您好：

您的訂單已成立，付款已確認。以下票號就是您的入場憑證，請妥善保存，勿轉寄或公開。""",
    """\
Hello,

Your order is confirmed and your payment was accepted. The ticket numbers below are your admission: keep them safe, and
do not pass them on or show them in public.""",
)
_OFF_AND_BOUGHT = (
    """\
您好：

很抱歉通知您：您已購票的活動，主辦單位已經取消，票券無法再使用。

您的訂單仍保留在系統中，作為購票證明。退款由主辦單位辦理，並會與您聯絡；您現在不需要做任何事，請保留這封信。""",
    """\
Hello,

We are sorry: the event that you bought tickets for was cancelled by its organiser, and the tickets can no longer be
used.

Your order stays on record as your proof of purchase. Refunds are arranged by the organiser, who will contact you. There
is nothing that you need to do now; please keep this message.""",
)
_OFF_AND_HELD = (
    """\
您好：

很抱歉通知您：您正在訂購的活動，主辦單位已經取消。為您保留的票券已經釋出，訂單不會成立，也不會向您收費；
若付款正在進行，將會自動撤銷。您不需要做任何事。""",
    """\
Hello,

We are sorry: the event that you were ordering tickets for was cancelled by its organiser. The tickets that were kept
for you have been released, your order ends here, and you are not charged; a payment that was under way is voided. There
is nothing that you need to do.""",
)
