"""Templates as responses: everything that others named is escaped, and no page does what its policy does not allow."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import Response

from paymaster.console import words
from paymaster.reports.page import CHART_STYLE

BASE = "/console"
_HERE = Path(__file__).parent
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # `no-referrer` would have browsers send forms without their origin
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class View:
    """A page to show: a template and what it shows."""

    template: str
    shows: Mapping[str, object] = field(default_factory=dict[str, object])
    status: int = 200


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str
    version: str
    """Of the content: an address with it may be kept for ever."""


class Pages:
    def __init__(self) -> None:
        self.assets = {
            path.name: _asset(path) for path in sorted((_HERE / "static").iterdir()) if path.suffix in _TYPES
        }
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._always: Mapping[str, object] = {"base": BASE, "asset": self._address_of}
        for name in ("usd", "usd_left", "moment", "until", "span", "ago", "count", "calls", "exact_usd", "coded"):
            self._templates.filters[name] = getattr(words, name)

    def response(self, view: View, shared: Mapping[str, object]) -> Response:
        """`shared`: what every page shows."""
        text = self._templates.get_template(view.template).render({**self._always, **shared, **view.shows})
        headers = {"cache-control": "no-store", **SECURITY_HEADERS}
        return Response(text, view.status, headers, media_type="text/html")

    def _address_of(self, name: str) -> str:
        return f"{BASE}/static/{name}?v={self.assets[name].version}"


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    if path.name == "console.css":
        content += CHART_STYLE.encode()
    return Asset(content, _TYPES[path.suffix], sha256(content).hexdigest()[:16])
