"""One row per provider: where it is, what it speaks, how a key is shown to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Auth = Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "sigv4", "google", "none"]


@dataclass(frozen=True, slots=True)
class Provider:
    """What is the same for everybody's account with one provider.

    ``base_url`` may contain ``{region}``, ``{project}`` and ``{resource}``, filled in from the bundle. ``price_id`` is the
    provider's id in the price book. ``operations`` lists what its OpenAI-compatible API has beyond chat; None: anything.
    """

    kind: str
    wire: str
    base_url: str | None
    auth: Auth = "bearer"
    price_id: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    stream_usage: bool = True  # understands stream_options.include_usage
    max_tokens_field: str = "max_tokens"  # how chat bounds the answer
    developer_role: bool = False  # knows the role "developer"
    top_k: bool = False  # chat takes top_k and min_p
    local: bool = False  # usually runs on the caller's own machine or network, without a key
    needs: tuple[str, ...] = field(default=())  # what the bundle must give beside a key


_ANTHROPIC_VERSION = (("anthropic-version", "2023-06-01"),)

PROVIDERS: dict[str, Provider] = {
    row.kind: row
    for row in (
        Provider(
            "openai",
            "openai",
            "https://api.openai.com/v1",
            price_id="openai",
            max_tokens_field="max_completion_tokens",
            developer_role=True,
        ),
        Provider(
            "azure",
            "openai",
            "https://{resource}.openai.azure.com/openai/v1",
            auth="api-key",
            price_id="azure",
            max_tokens_field="max_completion_tokens",
            developer_role=True,
            needs=("project",),
        ),
        Provider(
            "anthropic",
            "anthropic",
            "https://api.anthropic.com",
            auth="x-api-key",
            price_id="anthropic",
            headers=_ANTHROPIC_VERSION,
        ),
        Provider(
            "gemini",
            "gemini",
            "https://generativelanguage.googleapis.com/v1beta",
            auth="x-goog-api-key",
            price_id="google",
        ),
        Provider(
            "vertex",
            "gemini",
            "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}/publishers/google",
            auth="google",
            price_id="google",
            needs=("region", "project"),
        ),
        Provider(
            "bedrock",
            "bedrock",
            "https://bedrock-runtime.{region}.amazonaws.com",
            auth="sigv4",
            price_id="aws",
            needs=("region",),
        ),
        Provider("mistral", "openai", "https://api.mistral.ai/v1", price_id="mistral", stream_usage=False),
        Provider("cohere", "openai", "https://api.cohere.ai/compatibility/v1", price_id="cohere"),
        Provider(
            "groq",
            "openai",
            "https://api.groq.com/openai/v1",
            price_id="groq",
            max_tokens_field="max_completion_tokens",
        ),
        Provider("together", "openai", "https://api.together.xyz/v1", price_id="together", top_k=True),
        Provider("fireworks", "openai", "https://api.fireworks.ai/inference/v1", price_id="fireworks", top_k=True),
        Provider("deepseek", "openai", "https://api.deepseek.com/v1", price_id="deepseek"),
        Provider("xai", "openai", "https://api.x.ai/v1", price_id="x-ai"),
        Provider("perplexity", "openai", "https://api.perplexity.ai", price_id="perplexity", stream_usage=False),
        Provider("openrouter", "openai", "https://openrouter.ai/api/v1", price_id="openrouter", top_k=True),
        Provider(
            "cerebras",
            "openai",
            "https://api.cerebras.ai/v1",
            price_id="cerebras",
            max_tokens_field="max_completion_tokens",
        ),
        Provider("nvidia", "openai", "https://integrate.api.nvidia.com/v1", top_k=True),
        Provider(
            "huggingface", "openai", "https://router.huggingface.co/v1", price_id="huggingface_together", top_k=True
        ),
        Provider("databricks", "openai", "https://{resource}/serving-endpoints", needs=("project",)),
        Provider(
            "cloudflare",
            "openai",
            "https://api.cloudflare.com/client/v4/accounts/{project}/ai/v1",
            needs=("project",),
        ),
        Provider("ollama", "openai", "http://127.0.0.1:11434/v1", local=True),
        Provider("vllm", "openai", "http://127.0.0.1:8000/v1", local=True, top_k=True),
        Provider("sglang", "openai", "http://127.0.0.1:30000/v1", local=True, top_k=True),
        Provider("lmstudio", "openai", "http://127.0.0.1:1234/v1", local=True, top_k=True),
        Provider("llamacpp", "openai", "http://127.0.0.1:8080/v1", local=True, top_k=True),
        Provider("sim", "sim", "sim://local", auth="none", local=True),
    )
}
"""The rows by kind. An address of any other OpenAI-, Anthropic-, Gemini- or Bedrock-compatible server needs no row."""

_GENERIC: dict[str, Provider] = {
    "openai": Provider("", "openai", None),
    "openai-responses": Provider("", "openai-responses", None),
    "anthropic": Provider("", "anthropic", None, auth="x-api-key", headers=_ANTHROPIC_VERSION),
    "gemini": Provider("", "gemini", None, auth="x-goog-api-key"),
    "bedrock": Provider("", "bedrock", None, auth="sigv4"),
    "sim": PROVIDERS["sim"],
}


def row(kind: str | None, wire: str | None) -> Provider:
    """The row of ``kind``; without one, what is true of any server that speaks ``wire``.

    Raises ``KeyError`` for a kind or wire that is not in the tables.
    """
    if kind is None:
        return _GENERIC[wire or "openai"]
    return PROVIDERS[kind]
