"""What a model costs, and where that is known from."""

from paymaster.money import Price
from paymaster.settings import Settings


def price_of(settings: Settings, service: str, model: str) -> Price | None:
    """The configured price of a model, or None: then its calls are refused, because a price is never guessed."""
    configured = settings.services[service].models.get(model)
    return configured.price_of("configuration") if configured else None
