"""How amounts and times read on a page; what is rounded has the exact value beside it."""

from datetime import UTC, datetime

from markupsafe import Markup

from paymaster.values.money import NANOS_PER_USD, format_usd
from paymaster.values.plurals import counted

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3_600, 86_400


def usd(nanos: int | None) -> Markup:
    """To the cent from a dollar on, and to three digits below, with the exact amount for whoever points at it."""
    return Markup("no cap") if nanos is None else _with_exact(nanos, rounded_usd(nanos))


def usd_left(nanos: int) -> Markup:
    """Likewise, but never more than there is: a cap of $1.00 of which something is spent has less than $1.00 left."""
    unit = _unit(nanos)
    return _with_exact(nanos, format_usd(nanos // unit * unit))


def _with_exact(nanos: int, about: str) -> Markup:
    exact = format_usd(nanos)
    if about == exact:
        return Markup("<data value='{}'>{}</data>").format(exact, exact)
    return Markup("<data value='{0}' title='{0}'>{1}</data>").format(exact, about)


def rounded_usd(nanos: int) -> str:
    size, unit = abs(nanos), _unit(nanos)
    return format_usd((size + unit // 2) // unit * unit * (-1 if nanos < 0 else 1))


def _unit(nanos: int) -> int:
    size = abs(nanos)
    return NANOS_PER_USD // 100 if size >= NANOS_PER_USD else 10 ** max(0, len(str(size)) - 3)


def exact_usd(nanos: int) -> str:
    """For a form: digits alone."""
    return format_usd(nanos).replace("$", "").replace(",", "")


def moment(at: datetime | int | None) -> Markup:
    """A time in UTC; a number is milliseconds."""
    if at is None:
        return Markup("never")
    when = datetime.fromtimestamp(at / 1_000, UTC) if isinstance(at, int) else at.astimezone(UTC)
    text = when.strftime("%b %-d, %H:%M UTC")
    return Markup("<time datetime='{}'>{}</time>").format(when.isoformat(timespec="seconds"), text)


def until(at_ms: int | None, now_ms: int) -> Markup:
    """A time with how long it is until then."""
    if at_ms is None:
        return Markup("for ever")
    return Markup("{} (in {})").format(moment(at_ms), span((at_ms - now_ms) / 1_000))


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, round(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < 2 * _DAY_S:
        hours, minutes = divmod(whole // _MINUTE_S, 60)
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{whole // _DAY_S} days"


def ago(at: datetime, now: datetime) -> str:
    return f"{span((now - at).total_seconds())} ago"


def count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def calls(number: int) -> str:
    return counted(number, "call")


def coded(text: str) -> Markup:
    """A sentence with commands between backticks, which become code."""
    parts = text.split("`")
    said = Markup("")
    for number, part in enumerate(parts):
        is_code = number % 2 == 1 and number < len(parts) - 1
        said += Markup("<code>{}</code>").format(part) if is_code else part
    return said
