"""One deployment of a LiteLLM configuration as a provider and a model of ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, cast

# LiteLLM's prefix: our kind of provider, and the variable that LiteLLM reads its key from when none is given.
KINDS: dict[str, tuple[str, str]] = {
    "openai": ("openai", "OPENAI_API_KEY"),
    "text-completion-openai": ("openai", "OPENAI_API_KEY"),
    "azure": ("azure", "AZURE_API_KEY"),
    "azure_text": ("azure", "AZURE_API_KEY"),
    "anthropic": ("anthropic", "ANTHROPIC_API_KEY"),
    "gemini": ("gemini", "GEMINI_API_KEY"),
    "vertex_ai": ("vertex", "VERTEXAI_CREDENTIALS"),
    "vertex_ai_beta": ("vertex", "VERTEXAI_CREDENTIALS"),
    "bedrock": ("bedrock", "AWS_ACCESS_KEY_ID"),
    "mistral": ("mistral", "MISTRAL_API_KEY"),
    "codestral": ("mistral", "CODESTRAL_API_KEY"),
    "cohere": ("cohere", "COHERE_API_KEY"),
    "cohere_chat": ("cohere", "COHERE_API_KEY"),
    "groq": ("groq", "GROQ_API_KEY"),
    "together_ai": ("together", "TOGETHERAI_API_KEY"),
    "fireworks_ai": ("fireworks", "FIREWORKS_AI_API_KEY"),
    "deepseek": ("deepseek", "DEEPSEEK_API_KEY"),
    "xai": ("xai", "XAI_API_KEY"),
    "perplexity": ("perplexity", "PERPLEXITYAI_API_KEY"),
    "openrouter": ("openrouter", "OPENROUTER_API_KEY"),
    "cerebras": ("cerebras", "CEREBRAS_API_KEY"),
    "nvidia_nim": ("nvidia", "NVIDIA_NIM_API_KEY"),
    "huggingface": ("huggingface", "HF_TOKEN"),
    "databricks": ("databricks", "DATABRICKS_API_KEY"),
    "cloudflare": ("cloudflare", "CLOUDFLARE_API_KEY"),
    "ollama": ("ollama", ""),
    "ollama_chat": ("ollama", ""),
    "hosted_vllm": ("vllm", ""),
    "vllm": ("vllm", ""),
    "lm_studio": ("lmstudio", ""),
    "llamafile": ("llamacpp", ""),
}

_OPENAI_LIKE = frozenset({"openai_like", "custom_openai", "litellm_proxy", "azure_ai"})
_LOCAL = frozenset({"ollama", "vllm", "lmstudio", "llamacpp"})
_FAMILIES = (
    (re.compile(r"(gpt|o\d|chatgpt|text-embedding|dall-e|whisper|tts|davinci|omni-)"), "openai"),
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini"), "vertex_ai"),
    (re.compile(r"command|embed-|rerank"), "cohere"),
    (re.compile(r"mistral|codestral|open-mi"), "mistral"),
    (re.compile(r"(anthropic|amazon|meta|cohere|ai21|mistral)\."), "bedrock"),
)
_FACTS = {
    "max_input_tokens": "context_window",
    "max_output_tokens": "max_output",
    "supports_function_calling": "tools",
    "supports_vision": "images",
    "supports_audio_input": "audio",
    "supports_pdf_input": "documents",
    "supports_response_schema": "schema",
    "supports_reasoning": "reasoning",
    "supports_assistant_prefill": "prefill",
}
_PRICES = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cached_input",
    "cache_creation_input_token_cost": "cache_write",
    "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio",
    "output_cost_per_audio_token": "output_audio",
}
_SILENT = ("mode", "id", "db_model")  # they say nothing that a call depends on here

Note = Callable[[str, str], None]
"""Told what could not be carried over, by the setting's name, and why."""


@dataclass(slots=True)
class Deployment:
    """A provider and a model; ``weight``, ``order`` and ``timeouts`` go to the route."""

    provider: dict[str, Any]
    upstream_model: str
    model: dict[str, Any] = field(default_factory=dict[str, Any])
    weight: float | None = None
    order: int = 1
    timeout: Any = None
    stream_timeout: Any = None
    retries: Any = None


def deployment(params: dict[str, Any], info: dict[str, Any], note: Note) -> Deployment | None:
    """The deployment that LiteLLM's parameters describe; None, and a note, if there is none in Mainstay."""
    params, info = dict(params), dict(info)
    named = str(params.pop("model", "") or "")
    prefix, model = _split(named, params)
    if not model or "*" in model:
        note("model", f'"{named}" is a wildcard: name each model that callers may use')
        return None
    if prefix in _OPENAI_LIKE or (prefix not in KINDS and "api_base" in params):
        provider: dict[str, Any] = {"name": prefix.replace("_", "-") or "openai-like", "wire": "openai"}
        if prefix not in _OPENAI_LIKE:
            note("model", f'"{prefix}" is not a provider here; its address is used as an OpenAI-compatible one')
        if "api_base" not in params:
            note("model", f'"{named}" has no api_base, and without one there is no address')
            return None
        variable = ""
    elif prefix in KINDS:
        kind, variable = KINDS[prefix]
        provider = {"name": kind, "kind": kind}
    else:
        note("model", f'"{prefix}" is not a provider here, and there is no api_base to reach it at')
        return None
    found = Deployment(provider, model)
    _address(found, params, note)
    _credentials(found, params, variable, note)
    _model(found, params, info)
    _route(found, params)
    for setting in ("custom_llm_provider", "base_model"):
        params.pop(setting, None)
    for setting in params:
        note(f"litellm_params.{setting}", _reason(setting))
    if info.pop("base_model", None) is not None:
        note(
            "model_info.base_model",
            "prices are looked up by the model's own name; give the model a price where that fails",
        )
    for setting in info:
        if setting not in _SILENT:
            note(f"model_info.{setting}", "it has no counterpart")
    return found


def text(value: Any) -> str:
    """``value`` as text of a bundle: ``os.environ/NAME`` becomes ``${NAME}``."""
    written = str(value)
    match = re.fullmatch(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)", written)
    return f"${{{match[1]}}}" if match else written.replace("${", "$${")


def number(value: Any) -> int | float | None:
    """``value`` if it is a number, or text that is one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    try:
        return float(str(value))
    except ValueError:
        return None


def _split(named: str, params: dict[str, Any]) -> tuple[str, str]:
    given = params.get("custom_llm_provider")
    prefix, slash, rest = named.partition("/")
    if slash and (prefix in KINDS or prefix in _OPENAI_LIKE or given is None):
        return prefix, rest
    if isinstance(given, str):
        return given, named
    for pattern, family in _FAMILIES:
        if pattern.match(named.lower()):
            return family, named
    return "openai", named


def _address(found: Deployment, params: dict[str, Any], note: Note) -> None:
    provider, kind = found.provider, found.provider.get("kind")
    base = params.pop("api_base", None) or params.pop("base_url", None)
    version = params.pop("api_version", None)
    if base is not None:
        address = text(base)
        bare = address.rstrip("/")
        if kind == "azure":
            address = bare if "/openai" in bare else f"{bare}/openai/v1"
        elif kind == "ollama" and not bare.endswith("/v1"):
            address = f"{bare}/v1"
        elif kind == "openai" and "api.openai.com" not in bare:
            provider.pop("kind")  # it may be anybody's address, and then OpenAI's prices do not hold
            provider["wire"] = "openai"
        provider["base_url"] = address
        if ("wire" in provider or kind in _LOCAL) and not address.startswith("https://"):
            provider["private"] = True  # LiteLLM does not mind where a name resolves to
    elif kind == "azure":
        provider["base_url"] = "${AZURE_API_BASE}/openai/v1"
    if kind == "azure" and version is not None:
        provider["api_version"] = text(version)
    elif version is not None:
        note("litellm_params.api_version", "only Azure's API is asked for by version")
    if kind == "cloudflare" and base is None:
        provider["project"] = "${CLOUDFLARE_ACCOUNT_ID}"
    if kind == "databricks" and base is None:
        provider["base_url"] = "${DATABRICKS_API_BASE}"
    if kind == "huggingface":
        parts = found.upstream_model.split("/")
        if len(parts) == 3:  # LiteLLM writes who serves it first, the router wants it last
            found.upstream_model = f"{parts[1]}/{parts[2]}:{parts[0]}"
    if kind == "bedrock":
        parts = [
            part for part in found.upstream_model.split("/") if part not in ("converse", "converse_like", "invoke")
        ]
        if len(parts) == 2 and re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", parts[0]):
            params.setdefault("aws_region_name", parts[0])
            parts = parts[1:]
        found.upstream_model = "/".join(parts)


def _credentials(found: Deployment, params: dict[str, Any], variable: str, note: Note) -> None:
    provider, kind = found.provider, found.provider.get("kind")
    key = params.pop("api_key", None)
    if kind == "bedrock":
        access, secret = params.pop("aws_access_key_id", None), params.pop("aws_secret_access_key", None)
        token = params.pop("aws_session_token", None)
        provider["region"] = text(params.pop("aws_region_name", "os.environ/AWS_REGION_NAME"))
        if key is not None:
            provider["api_key"] = text(key)
            return
        provider["api_key"] = text(access or "os.environ/AWS_ACCESS_KEY_ID")
        provider["secret_key"] = text(secret or "os.environ/AWS_SECRET_ACCESS_KEY")
        if token is not None:
            provider["session_token"] = text(token)
        return
    if kind == "vertex":
        provider["project"] = text(params.pop("vertex_project", "os.environ/VERTEXAI_PROJECT"))
        provider["region"] = text(params.pop("vertex_location", "os.environ/VERTEXAI_LOCATION"))
        key = params.pop("vertex_credentials", None) or key
        if key is None or not str(key).lstrip().startswith("{"):
            note(
                "litellm_params.vertex_credentials",
                f"put the text of the service account's JSON, not the path of its file, in {variable}",
            )
            if key is None or not str(key).startswith("os.environ/"):
                key = f"os.environ/{variable}"
    if key is None and variable and "wire" not in provider:
        key = f"os.environ/{variable}"
    if key is not None and not (kind in _LOCAL and not str(key).startswith("os.environ/")):
        provider["api_key"] = text(key)
    headers: dict[str, str] = {}
    for setting in ("extra_headers", "headers"):
        given = params.pop(setting, None)
        if isinstance(given, dict):
            headers.update({name: text(value) for name, value in cast(dict[str, Any], given).items()})
    organization = params.pop("organization", None)
    if organization is not None:
        headers["openai-organization"] = text(organization)
    if headers:
        provider["headers"] = headers


def _model(found: Deployment, params: dict[str, Any], info: dict[str, Any]) -> None:
    price: dict[str, Any] = {}
    for setting, sort in _PRICES.items():
        cost = params.pop(setting, None)
        cost = info.pop(setting, None) if cost is None else cost
        try:
            if cost is not None:
                price[sort] = Decimal(str(cost)) * 1_000_000
        except InvalidOperation:
            continue
    if price:
        price.setdefault("input", Decimal(0))
        found.model["price"] = {sort: price[sort] for sort in _PRICES.values() if sort in price}
    info.setdefault("max_output_tokens", info.pop("max_tokens", None))
    for setting, fact in _FACTS.items():
        value = info.pop(setting, None)
        if isinstance(value, bool) or (isinstance(value, int) and value > 0):
            found.model[fact] = value
    parallel = params.pop("max_parallel_requests", None)
    if isinstance(parallel, int) and parallel > 0:
        found.model["concurrency"] = {"limit": parallel, "queue": parallel}


def _route(found: Deployment, params: dict[str, Any]) -> None:
    weights = [number(params.get(setting)) for setting in ("weight", "rpm", "tpm")]
    found.weight = next((weight for weight in weights if weight is not None and weight > 0), None)
    params.pop("weight", None)
    order = number(params.pop("order", 1))
    found.order = 1 if order is None else int(order)
    found.timeout = params.pop("timeout", None)
    found.stream_timeout = params.pop("stream_timeout", None)
    found.retries = params.pop("max_retries", None)
    if params.get("num_retries") is not None:
        found.retries = params.pop("num_retries")


def _reason(setting: str) -> str:
    if setting in ("rpm", "tpm"):
        return "a deployment has no limit per minute here; it became the weight among several, and keys can have limits"
    if setting in ("temperature", "max_tokens", "top_p", "stop", "seed", "drop_params", "additional_drop_params"):
        return "requests are passed on as they are: let callers send it"
    if setting in ("tags", "region_name"):
        return "write it as a route with when: conditions"
    if setting.startswith("aws_"):
        return "only access keys and Bedrock API keys are used to sign; put them in the environment"
    return "it has no counterpart"
