"""Money is an integer number of nano-dollars; a price is an integer number of nano-dollars per million tokens.

Both are exact. Rounding happens in one place, `Price.cost_nanos`, once per attempt and upwards, so that what is charged
is never below what the provider bills.
"""

from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, WithJsonSchema

NANOS_PER_USD = 1_000_000_000
TOKENS_PER_PRICE = 1_000_000
NANOS_MAX = 10**20 - 1
"""What NUMERIC(20,9), the type of the column that stores money, can hold: below 10¹¹ dollars."""
_PLAIN = frozenset("0123456789.+-eE")
_NANO = Decimal("1e-9")
_EXACTLY = Context(prec=28, traps=[Inexact, InvalidOperation])


def usd_to_nanos(amount: str | int | Decimal) -> int:
    """The nano-dollars in a decimal amount of US dollars, exactly.

    Floats are refused: 0.1 has no exact binary form. Raises ValueError for anything that is not a finite amount with at
    most nine decimals, and for amounts of 10¹¹ dollars and more. Text has plain digits alone:
    what a program reads otherwise than people may (`1_000`, digits of other scripts) is refused.
    """
    if isinstance(amount, bool) or not isinstance(amount, str | int | Decimal):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f'write the amount as text, like "0.20": {amount!r} is not exact')
    if isinstance(amount, str) and not _PLAIN.issuperset(amount.strip(" ")):
        raise ValueError(f'{amount!r} is not an amount of US dollars; write it like "12.50"')
    try:
        usd = Decimal(amount)
    except InvalidOperation:
        raise ValueError(f'{amount!r} is not an amount of US dollars; write it like "12.50"') from None
    # copy_abs, because abs() raises for an exponent of more than six digits.
    if not usd.is_finite() or usd.copy_abs() > nanos_to_usd(NANOS_MAX):
        raise ValueError(f"{amount!r} is not an amount of US dollars below 10^11")
    try:
        return int(usd.quantize(_NANO, context=_EXACTLY).scaleb(9, context=_EXACTLY))
    except Inexact:
        raise ValueError(f"{amount!r} is finer than a nano-dollar (nine decimals)") from None


def nanos_to_usd(nanos: int) -> Decimal:
    """An amount of nano-dollars in US dollars, with all nine decimals."""
    return Decimal(f"{nanos}E-9")  # made from text a Decimal is exact, whatever precision the program has set


def format_usd(nanos: int) -> str:
    """For people: `$1.50`, `$0.000012345`; at least two decimals, never rounded."""
    sign = "-" if nanos < 0 else ""
    whole, fraction = divmod(abs(nanos), NANOS_PER_USD)
    decimals = f"{fraction:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}${whole:,}.{decimals}"


def _nanos_from_input(value: Any) -> int:
    nanos = usd_to_nanos(value)
    if nanos < 0:
        raise ValueError(f"{value!r} is negative")
    return nanos


UsdAsNanos = Annotated[
    int,
    BeforeValidator(_nanos_from_input),
    PlainSerializer(lambda nanos: str(nanos_to_usd(nanos)), return_type=str, when_used="json"),
    WithJsonSchema(
        {"type": ["string", "integer"], "pattern": r"^[0-9]{1,11}(\.[0-9]{1,9})?$", "minimum": 0}, mode="serialization"
    ),
]
"""A field written in US dollars as exact text ("0.20"), not negative, and held as nano-dollars."""


class TokenUsage(BaseModel):
    """What a provider says that it billed.

    `input_tokens` includes cached and cache-write tokens, `output_tokens` includes reasoning.
    """

    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Rates(BaseModel):
    """Nano-dollars per million tokens. A rate that is None falls back to `input_nanos`: a provider that does not
    discount its cache bills it as input."""

    model_config = ConfigDict(frozen=True)

    input_nanos: int
    output_nanos: int
    cached_input_nanos: int | None = None
    cache_write_nanos: int | None = None

    @property
    def cached_nanos(self) -> int:
        return self.input_nanos if self.cached_input_nanos is None else self.cached_input_nanos

    @property
    def written_nanos(self) -> int:
        return self.input_nanos if self.cache_write_nanos is None else self.cache_write_nanos

    @property
    def dearest_input_nanos(self) -> int:
        return max(self.input_nanos, self.cached_input_nanos or 0, self.cache_write_nanos or 0)


class PriceTier(Rates):
    """The rates of all tokens of an attempt, output too, whose input is larger than `above_input_tokens`."""

    above_input_tokens: int


AT_CHOICE = " at "
"""Before each choice of a call in the source of its price, as `service_tier=priority`."""


class Price(Rates):
    """What a model costs. `source` says where the price came from and is stored with every entry."""

    source: str
    tiers: tuple[PriceTier, ...] = ()
    """In rising order. Below the first one, the rates of the price itself."""
    request_nanos: int = 0
    """Nano-dollars for each request, whatever its size."""

    def cost_nanos(self, usage: TokenUsage) -> int:
        """The cost of one attempt, rounded up to a whole nano-dollar.

        Cached and cache-write tokens are part of the input; a provider that reports more of them than input is not
        given a negative rest.
        """
        rates = self.rates_at(usage.input_tokens)
        cached, written = usage.cached_input_tokens, usage.cache_write_tokens
        plain = max(0, usage.input_tokens - cached - written)
        exact = (
            plain * rates.input_nanos
            + cached * rates.cached_nanos
            + written * rates.written_nanos
            + usage.output_tokens * rates.output_nanos
        )
        return self.request_nanos - (-exact // TOKENS_PER_PRICE)

    def bound_nanos(self, input_tokens_max: int, output_tokens_max: int) -> int:
        """The most that an attempt can cost: every input token at the dearest input rate, and all the output, in the
        dearest tier that so many input tokens can reach."""
        exact = input_tokens_max * self.dearest_input_nanos + output_tokens_max * self.output_nanos
        for tier in self.tiers:
            if input_tokens_max > tier.above_input_tokens:
                dearest = input_tokens_max * tier.dearest_input_nanos + output_tokens_max * tier.output_nanos
                exact = max(exact, dearest)
        return self.request_nanos - (-exact // TOKENS_PER_PRICE)

    def rates_at(self, input_tokens: int) -> Rates:
        """The rates of an attempt with exactly so many input tokens."""
        return next((tier for tier in reversed(self.tiers) if input_tokens > tier.above_input_tokens), self)
