"""Failed answers in the words of each provider."""

import json
from typing import Any

from paymaster.providers.http_errors import HttpError, classify

NOW_MS = 1_795_000_000_000  # 2026-11-18 11:06:40 UTC


def openai_error(message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **fields}}


def anthropic_error(kind: str, message: str = "no", **fields: Any) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message, **fields}}


def google_error(code: int, status: str, message: str = "no", *details: Any) -> dict[str, Any]:
    return {"error": {"code": code, "status": status, "message": message, "details": list(details)}}


def quota_failure(quota_id: str) -> dict[str, Any]:
    return {"@type": "…QuotaFailure", "violations": [{"quotaId": quota_id}]}


def read(status: int, body: Any = None, headers: dict[str, str] | None = None, **options: Any) -> HttpError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify(status, headers or {}, content, now_ms=NOW_MS, **options)
