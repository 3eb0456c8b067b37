"""What `[gateway.streams]` takes, and what it says of the rest."""

import pytest
from pydantic import ValidationError

from paymaster.settings.gateway_streams import GatewayStreamsSettings


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"address": "gateway:7301"}, "write scheme, host and port"),
        ({"address": "https://gateway.internal"}, "write scheme, host and port"),
        ({"address": "https://gateway.internal:7301/streams"}, 'only: "https://gateway.internal:7301"'),
        ({"address": "https://key@gateway.internal:7301"}, "write scheme, host and port"),
        ({"workers_reach": ["https://gateway.internal"]}, "is no host"),
        ({"workers_reach": ["gateway.internal:7301"]}, "is no host"),
        ({"workers_reach": ["*"]}, "is no host"),
        ({"listen": "0.0.0.0:7301"}, "say how they reach this gateway"),
        ({"tls_certificate": "a.pem"}, "belong together"),
        ({"at_once": 0}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_meant_is_said_in_words(table: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        GatewayStreamsSettings.model_validate(table)


def test_the_default_is_this_machine() -> None:
    settings = GatewayStreamsSettings()
    for here in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://127.0.0.7:1"):
        assert settings.is_reached(here)
    for elsewhere in ("http://10.0.0.1:1", "https://gateway.internal:1", "http://127.0.0.1", "ftp://127.0.0.1:1", "x"):
        assert not settings.is_reached(elsewhere)
