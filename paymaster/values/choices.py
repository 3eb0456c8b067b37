"""Words that the configuration offers, and other parts act on."""

from typing import Literal

AlertForm = Literal["json", "slack", "teams"]
"""The form in which a webhook takes alerts."""
