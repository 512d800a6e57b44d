"""The table of OpenTelemetry's GenAI attributes, in every generation that instrumentations still send.

Sources: semantic conventions 1.27 (``prompt_tokens``), 1.36 (``gen_ai.system``), 1.41, and the GenAI conventions'
own repository after it (``cache_write``, ``gen_ai.prompt.version``). OpenLLMetry's names, which grew from the first of
these, are in it as well.
"""

from __future__ import annotations

from mainstay.observe.spans_dialect import Dialect, Family

GENAI = Dialect(
    name="genai",
    marks=("gen_ai.", "traceloop."),
    rows={
        "model": ("gen_ai.response.model",),
        "requested_model": ("gen_ai.request.model",),
        "provider": ("gen_ai.provider.name", "gen_ai.system"),
        "session": ("gen_ai.conversation.id", "session.id", "traceloop.association.properties.session_id"),
        "user": ("user.id", "enduser.id", "traceloop.association.properties.user_id"),
        "workflow": ("gen_ai.workflow.name", "traceloop.workflow.name"),
        "environment": ("deployment.environment.name", "deployment.environment"),
        "prompt_name": ("gen_ai.prompt.name", "traceloop.prompt.key"),
        "prompt_version": ("gen_ai.prompt.version", "traceloop.prompt.version"),
        "agent": ("gen_ai.agent.name", "gen_ai.agent.id"),
        "tool": ("gen_ai.tool.name",),
        "finish": ("gen_ai.response.finish_reasons", "gen_ai.response.finish_reason"),
        "response_id": ("gen_ai.response.id",),
        "first_token_s": ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"),
        "error_type": ("error.type",),
        "error_message": ("error.message", "exception.message"),
        "usage.input": ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.usage.prompt_tokens"),
        "usage.output": ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.usage.completion_tokens"),
        "usage.total": ("gen_ai.usage.total_tokens", "llm.usage.total_tokens"),
        "usage.cached_input": (
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_read_input_tokens",
            "gen_ai.usage.input_tokens.cached",
        ),
        "usage.cache_write": (
            "gen_ai.usage.cache_write.input_tokens",
            "gen_ai.usage.cache_creation.input_tokens",
            "gen_ai.usage.cache_creation_input_tokens",
        ),
        "usage.reasoning": (
            "gen_ai.usage.reasoning.output_tokens",
            "gen_ai.usage.reasoning_tokens",
            "gen_ai.usage.output_tokens.reasoning",
        ),
        "usage.input_audio": ("gen_ai.usage.audio.input_tokens",),
        "usage.output_audio": ("gen_ai.usage.audio.output_tokens",),
        "cost.total": ("gen_ai.usage.cost",),
        "input": (
            "gen_ai.input.messages",
            "gen_ai.prompt",
            "gen_ai.tool.call.arguments",
            "gen_ai.retrieval.query.text",
            "gen_ai.memory.query.text",
            "traceloop.entity.input",
        ),
        "output": (
            "gen_ai.output.messages",
            "gen_ai.completion",
            "gen_ai.tool.call.result",
            "gen_ai.retrieval.documents",
            "gen_ai.memory.records",
            "traceloop.entity.output",
        ),
        "content": ("gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.evaluation.explanation"),
    },
    kinds={
        "gen_ai.operation.name": {
            "chat": "llm",
            "text_completion": "llm",
            "generate_content": "llm",
            "completion": "llm",
            "embeddings": "embedding",
            "execute_tool": "tool",
            "create_agent": "agent",
            "invoke_agent": "agent",
            "plan": "agent",
            "invoke_workflow": "chain",
            "retrieval": "retrieval",
            "search_memory": "retrieval",
            "rerank": "rerank",
            "apply_guardrail": "guard",
            "evaluate": "evaluator",
        },
        "traceloop.span.kind": {"workflow": "chain", "task": "chain", "agent": "agent", "tool": "tool"},
        "llm.request.type": {"chat": "llm", "completion": "llm", "embedding": "embedding", "rerank": "rerank"},
    },
    families=(
        Family("gen_ai.prompt.", "input"),  # 0.role, 0.content; the names and versions of prompts are rows of their own
        Family("gen_ai.completion.", "output"),
        Family("llm.request.functions.", "content"),
    ),
    events={
        "gen_ai.system.message": "input",
        "gen_ai.user.message": "input",
        "gen_ai.assistant.message": "input",
        "gen_ai.tool.message": "input",
        "gen_ai.choice": "output",
        "gen_ai.content.prompt": "input",
        "gen_ai.content.completion": "output",
    },
    first_token_events=frozenset(("llm.content.completion.chunk", "gen_ai.content.completion.chunk")),
)
