"""Durable, exactly budgeted LLM calls for agents, on Temporal."""

from paymaster.agent import generate, try_generate
from paymaster.errors import CallDenied, CallFailed, CallIdReused, CallUnavailable, PaymasterError
from paymaster.messages import ChatMessage, LLMRequest, LLMResult, Outcome
from paymaster.plugin import PaymasterPlugin

__all__ = [
    "CallDenied",
    "CallFailed",
    "CallIdReused",
    "CallUnavailable",
    "ChatMessage",
    "LLMRequest",
    "LLMResult",
    "Outcome",
    "PaymasterError",
    "PaymasterPlugin",
    "generate",
    "try_generate",
]
