"""Why a reply ended, in the words of many providers."""

from __future__ import annotations

from typing import Literal

Ended = Literal["stop", "length", "filter", "refusal"]

# OpenAI, Anthropic, Google, Bedrock, Cohere, Mistral, Ollama; other words are those of a reply that ended by itself.
_ENDINGS: dict[str, Ended] = {
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "error_limit"), "length"
    ),
    **dict.fromkeys(("model_context_window_exceeded",), "length"),
    **dict.fromkeys(("content_filter", "content_filtered", "guardrail_intervened", "error_toxic"), "filter"),
    **dict.fromkeys(("safety", "recitation", "blocklist", "prohibited_content", "spii", "language"), "filter"),
    "refusal": "refusal",
}


def ending_of(*reasons: object) -> Ended:
    """Return why a reply ended: by the first of these that says so, each a string, an enum's member, or nothing."""
    for reason in reasons:
        name = getattr(reason, "name", reason)
        if isinstance(name, str) and name:
            return _ENDINGS.get(name.lower(), "stop")
    return "stop"
