"""The table of Langfuse's attributes (its Python and JavaScript SDKs of versions 3 and 4, and its documented names)."""

from __future__ import annotations

from mainstay.observe.spans_dialect import Dialect, Family

LANGFUSE = Dialect(
    name="langfuse",
    marks=("langfuse.",),
    rows={
        "model": ("langfuse.observation.model.name", "langfuse.observation.model"),
        "session": ("langfuse.session.id", "langfuse.trace.session_id"),
        "user": ("langfuse.user.id", "langfuse.trace.user_id"),
        "workflow": ("langfuse.trace.name",),
        "environment": ("langfuse.environment",),
        "prompt_name": ("langfuse.observation.prompt.name", "langfuse.prompt.name"),
        "prompt_version": ("langfuse.observation.prompt.version", "langfuse.prompt.version"),
        "first_token_at": ("langfuse.observation.completion_start_time",),
        "level": ("langfuse.observation.level",),
        "error_message": ("langfuse.observation.status_message",),
        "tags": ("langfuse.trace.tags", "langfuse.tags"),
        "metadata": ("langfuse.observation.metadata", "langfuse.trace.metadata"),
        "usage.details": ("langfuse.observation.usage_details", "langfuse.observation.usage"),
        "cost.details": ("langfuse.observation.cost_details",),
        "input": ("langfuse.observation.input", "langfuse.trace.input"),
        "output": ("langfuse.observation.output", "langfuse.trace.output"),
    },
    kinds={
        "langfuse.observation.type": {
            "generation": "llm",
            "embedding": "embedding",
            "agent": "agent",
            "tool": "tool",
            "chain": "chain",
            "retriever": "retrieval",
            "evaluator": "evaluator",
            "guardrail": "guard",
        }
    },
    families=(
        Family("langfuse.observation.metadata.", "metadata"),
        Family("langfuse.trace.metadata.", "metadata"),
    ),
)
