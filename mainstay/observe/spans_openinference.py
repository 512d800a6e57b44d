"""The table of OpenInference's attributes (its semantic conventions for Python, 0.1.46)."""

from __future__ import annotations

from mainstay.observe.spans_dialect import Dialect, Family

OPENINFERENCE = Dialect(
    name="openinference",
    marks=("openinference.", "llm.model_name", "llm.token_count.", "embedding.", "reranker."),
    rows={
        "model": ("llm.response.model_name", "llm.model_name", "embedding.model_name", "reranker.model_name"),
        "requested_model": ("llm.request.model_name",),
        "provider": ("llm.provider", "llm.system"),
        "session": ("session.id",),
        "user": ("user.id",),
        "prompt_name": ("prompt.id", "llm.prompt_template.name"),
        "prompt_version": ("llm.prompt_template.version",),
        "agent": ("agent.name",),
        "tool": ("tool.name",),
        "finish": ("llm.finish_reason",),
        "tags": ("tag.tags",),
        "metadata": ("metadata",),
        "usage.input": ("llm.token_count.prompt",),
        "usage.output": ("llm.token_count.completion",),
        "usage.total": ("llm.token_count.total",),
        "usage.cached_input": (
            "llm.token_count.prompt_details.cache_read",
            "llm.token_count.prompt_details.cache_input",
        ),
        "usage.cache_write": ("llm.token_count.prompt_details.cache_write",),
        "usage.reasoning": ("llm.token_count.completion_details.reasoning",),
        "usage.input_audio": ("llm.token_count.prompt_details.audio",),
        "usage.output_audio": ("llm.token_count.completion_details.audio",),
        "cost.total": ("llm.cost.total",),
        "cost.input": ("llm.cost.prompt",),
        "cost.output": ("llm.cost.completion",),
        # Messages, where a span has them, are preferred to these: see the families.
        "input": ("input.value", "reranker.query", "tool.parameters"),
        "output": ("output.value",),
        "content": (
            "llm.prompt_template.template",
            "llm.prompt_template.variables",
            "llm.function_call",
            "tool.description",
            "tool.json_schema",
        ),
    },
    kinds={
        "openinference.span.kind": {
            "llm": "llm",
            "embedding": "embedding",
            "chain": "chain",
            "prompt": "chain",
            "decision": "chain",
            "retriever": "retrieval",
            "reranker": "rerank",
            "tool": "tool",
            "agent": "agent",
            "guardrail": "guard",
            "evaluator": "evaluator",
        }
    },
    families=(
        Family("llm.input_messages.", "input", "message"),
        Family("llm.output_messages.", "output", "message"),
        Family("llm.prompts.", "input", "prompt"),
        Family("llm.choices.", "output", "completion"),
        Family("retrieval.documents.", "output", "document"),
        Family("reranker.input_documents.", "input", "document"),
        Family("reranker.output_documents.", "output", "document"),
        Family("embedding.embeddings.", "content", "embedding"),
        Family("input.images.", "content"),
        Family("input.documents.", "content"),
        Family("output.images.", "content"),
        Family("output.documents.", "content"),
        Family("llm.tools.", "content"),
    ),
    first_token_events=frozenset(("First Token Stream Event",)),
)
