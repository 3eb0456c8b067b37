"""Durable, exactly budgeted LLM calls for agents, on Temporal."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paymaster.agent import answer_pieces, generate, read_answer, standing, try_generate
    from paymaster.errors import (
        AnswerGone,
        CallDenied,
        CallFailed,
        CallIdReused,
        CallUnavailable,
        OutputInvalid,
        PaymasterError,
        PurchaseDenied,
        PurchaseEnded,
        StandingUnknown,
    )
    from paymaster.messages import (
        ChatMessage,
        Document,
        Image,
        LLMRequest,
        LLMResult,
        Outcome,
        RunLimits,
        Standing,
        Tool,
        ToolCall,
    )
    from paymaster.passed_through import sandbox
    from paymaster.plugin import PaymasterPlugin
    from paymaster.purchases import purchase
    from paymaster.runs import run_budget

__all__ = [
    "AnswerGone",
    "CallDenied",
    "CallFailed",
    "CallIdReused",
    "CallUnavailable",
    "ChatMessage",
    "Document",
    "Image",
    "LLMRequest",
    "LLMResult",
    "Outcome",
    "OutputInvalid",
    "PaymasterError",
    "PaymasterPlugin",
    "PurchaseDenied",
    "PurchaseEnded",
    "RunLimits",
    "Standing",
    "StandingUnknown",
    "Tool",
    "ToolCall",
    "answer_pieces",
    "generate",
    "purchase",
    "read_answer",
    "run_budget",
    "sandbox",
    "standing",
    "try_generate",
]

_HOME = {
    "answer_pieces": "agent",
    "generate": "agent",
    "read_answer": "agent",
    "standing": "agent",
    "try_generate": "agent",
    "ChatMessage": "messages",
    "Document": "messages",
    "Image": "messages",
    "Tool": "messages",
    "ToolCall": "messages",
    "LLMRequest": "messages",
    "LLMResult": "messages",
    "RunLimits": "messages",
    "Outcome": "messages",
    "Standing": "messages",
    "PaymasterPlugin": "plugin",
    "purchase": "purchases",
    "run_budget": "runs",
    "sandbox": "passed_through",
}


def __getattr__(name: str) -> object:
    """Imported when first asked for: `paymaster --help` must not wait a second for Temporal's SDK."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"paymaster.{_HOME.get(name, 'errors')}"), name)
