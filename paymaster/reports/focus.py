"""Stored usage in the columns of FOCUS, the FinOps Foundation's specification of cost and usage data."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import RowMapping

from paymaster.storage.usage_rows import nanos_of
from paymaster.values.budget_path import budgets_named
from paymaster.values.cost_lines import NOT_RECORDED, UNITS, CostLine, Kind
from paymaster.values.money import TOKENS_PER_PRICE, nanos_to_usd

FOCUS_VERSION = "1.4"
"""The newest version of the specification that the foundation has ratified (June 2026)."""


class Cell(StrEnum):
    """What is in a column."""

    TEXT = "text"
    TIME = "time"
    QUANTITY = "quantity"
    """Up to six decimals: millionths of a million tokens are tokens."""
    MONEY = "money"
    """US dollars with nine decimals."""
    PRODUCT = "product"
    """US dollars with fifteen decimals: a price times a quantity."""


COLUMNS: Mapping[str, Cell] = {
    "BilledCost": Cell.MONEY,
    "BillingAccountId": Cell.TEXT,
    "BillingAccountName": Cell.TEXT,
    "BillingCurrency": Cell.TEXT,
    "BillingPeriodEnd": Cell.TIME,
    "BillingPeriodStart": Cell.TIME,
    "ChargeCategory": Cell.TEXT,
    "ChargeClass": Cell.TEXT,
    "ChargeDescription": Cell.TEXT,
    "ChargeFrequency": Cell.TEXT,
    "ChargePeriodEnd": Cell.TIME,
    "ChargePeriodStart": Cell.TIME,
    "ConsumedQuantity": Cell.QUANTITY,
    "ConsumedUnit": Cell.TEXT,
    "ContractedCost": Cell.PRODUCT,
    "ContractedUnitPrice": Cell.MONEY,
    "EffectiveCost": Cell.MONEY,
    "HostProviderName": Cell.TEXT,
    "InvoiceIssuerName": Cell.TEXT,
    "ListCost": Cell.PRODUCT,
    "ListUnitPrice": Cell.MONEY,
    "PricingCategory": Cell.TEXT,
    "PricingQuantity": Cell.QUANTITY,
    "PricingUnit": Cell.TEXT,
    "ServiceCategory": Cell.TEXT,
    "ServiceName": Cell.TEXT,
    "ServiceProviderName": Cell.TEXT,
    "ServiceSubcategory": Cell.TEXT,
    "SkuId": Cell.TEXT,
    "SkuMeter": Cell.TEXT,
    "SkuPriceDetails": Cell.TEXT,
    "SkuPriceId": Cell.TEXT,
    "SubAccountId": Cell.TEXT,
    "SubAccountName": Cell.TEXT,
    "Tags": Cell.TEXT,
    "x_AttemptId": Cell.TEXT,
    "x_Budgets": Cell.TEXT,
    "x_CallId": Cell.TEXT,
    "x_Dialect": Cell.TEXT,
    "x_GrantedAt": Cell.TIME,
    "x_Model": Cell.TEXT,
    "x_ModelAnswered": Cell.TEXT,
    "x_PriceSource": Cell.TEXT,
    "x_ProviderRequestId": Cell.TEXT,
    "x_Run": Cell.TEXT,
    "x_State": Cell.TEXT,
    "x_Status": Cell.TEXT,
}
"""The columns of a file in their order, and what is in each."""

FocusRow = dict[str, str | Decimal | datetime | None]
"""The cells of a row by the names of `COLUMNS`. One that is None or absent is the specification's null."""

_MILLION_TOKENS = "1000000 Tokens"
_HOUR = timedelta(hours=1)


class Priced(NamedTuple):
    """A line that has a price in the list: what was used, and at how much."""

    quantity: int
    unit: str
    price_nanos: int
    """Nano-dollars per million tokens, or for one of anything else. Where the stored line has none, the least whole
    price at which the quantity costs what it did cost."""


def focus_rows(row: RowMapping, providers: Mapping[str, str]) -> Iterator[FocusRow]:
    """A row for each line of a stored attempt; none for an attempt that cost nothing and used nothing.

    `row` has the columns of the usage table. `providers`: who provides each service; one that is not there provides
    itself. The costs of all lines add up to the attempt's, to the nano-dollar.
    """
    common = _common(row, providers.get(row["service"], row["service"]))
    for line in _lines(row):
        yield common | _charge(row, line)


def _lines(row: RowMapping) -> list[CostLine]:
    if row["paid_for"] is not None:
        return [CostLine.model_validate(line) for line in row["paid_for"]]
    cost_nanos = nanos_of(row["cost_usd"])
    return [CostLine(kind=NOT_RECORDED, quantity=1, cost_nanos=cost_nanos)] if cost_nanos else []


def _common(row: RowMapping, provider: str) -> FocusRow:
    granted_at: datetime = row["granted_at"].astimezone(UTC)
    hour = granted_at.replace(minute=0, second=0, microsecond=0)
    month = hour.replace(day=1, hour=0)
    return {
        "BillingAccountId": row["ledger"],
        "BillingAccountName": row["ledger"],
        "BillingCurrency": "USD",
        "BillingPeriodEnd": (month + timedelta(days=31)).replace(day=1),
        "BillingPeriodStart": month,
        "ChargePeriodEnd": hour + _HOUR,
        "ChargePeriodStart": hour,
        "HostProviderName": provider,
        "InvoiceIssuerName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": row["service"],
        "ServiceProviderName": provider,
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": row["reported_budget"],
        "SubAccountName": row["reported_budget"],
        "Tags": _json(row["metadata"] or {}),
        "x_AttemptId": row["attempt_id"],
        "x_Budgets": _json(budgets_named(row["charged_budgets"] or [row["budget"]])),
        "x_CallId": row["call_id"],
        "x_Dialect": row["dialect"],
        "x_GrantedAt": granted_at,
        "x_ModelAnswered": row["model_answered"],
        "x_PriceSource": row["price_source"],
        "x_ProviderRequestId": row["provider_request_id"],
        "x_Run": row["run"],
        "x_State": row["state"],
        "x_Status": row["status"],
    }


def _charge(row: RowMapping, line: CostLine) -> FocusRow:
    model = line.model or row["model"]
    meter = line.kind.replace("_", " ").capitalize()
    cost = nanos_to_usd(line.cost_nanos)
    found: FocusRow = {
        "BilledCost": cost,
        "ChargeDescription": f"{row['service']} {model}: {meter}",
        "EffectiveCost": cost,
        "x_Model": model,
    }
    priced = _priced(line)
    if priced is None:
        adjusted: FocusRow = {"ChargeCategory": "Adjustment", "ChargeFrequency": "One-Time"}
        return found | adjusted | {"ContractedCost": cost, "ListCost": cost}
    per_million = priced.unit == "tokens"
    price, sku = nanos_to_usd(priced.price_nanos), f"{row['service']}/{model}/{line.kind}"
    scaled = Decimal(f"{priced.price_nanos * priced.quantity}E{-15 if per_million else -9}")
    return found | {
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": Decimal(priced.quantity),
        "ConsumedUnit": priced.unit.capitalize(),
        "ContractedCost": scaled,
        "ContractedUnitPrice": price,
        "ListCost": scaled,
        "ListUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingQuantity": Decimal(f"{priced.quantity}E-{6 if per_million else 0}"),
        "PricingUnit": _MILLION_TOKENS if per_million else priced.unit.capitalize(),
        "SkuId": sku,
        "SkuMeter": f"{meter} {priced.unit}" if per_million else meter,
        "SkuPriceDetails": _json({"x_Model": model, "x_Kind": line.kind}),
        "SkuPriceId": f"{sku}/{price:f}",
    }


def _priced(line: CostLine) -> Priced | None:
    """None for what is no quantity at a price: an adjustment, a correction, a charge that is taken back."""
    if line.kind == Kind.ADJUSTMENT or line.cost_nanos < 0 or line.quantity <= 0:
        return None
    unit = UNITS.get(line.kind, "attempts")
    at_once = TOKENS_PER_PRICE if unit == "tokens" else 1
    price = line.unit_price_nanos
    return Priced(line.quantity, unit, -(-line.cost_nanos * at_once // line.quantity) if price is None else price)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
