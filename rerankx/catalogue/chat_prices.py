"""What services charge for language models: published prices, each with its source and date.

Without discounts and for prompts of ordinary length; thinking is charged as output.
"""

from __future__ import annotations

from collections.abc import Mapping

from rerankx.catalogue.prices import Price

_LISTED = "https://github.com/BerriAI/litellm (its list of prices, which cites {})"
_GEMINI_LISTED = _LISTED.format("https://ai.google.dev/gemini-api/docs/pricing")
_OPENAI_LISTED = _LISTED.format("https://developers.openai.com/api/docs/pricing")
_TOGETHER_LISTED = _LISTED.format("https://api.together.ai/v1/models")
CHAT_PRICES: Mapping[str, Price] = {
    "api.deepseek.com:deepseek-flash": Price(
        per_million_tokens=0.3,  # at peak hours; half of it at others
        per_million_output_tokens=1.2,
        source="https://api-docs.deepseek.com/quick_start/pricing",
        read="2026-11-23",
    ),
    "api.deepseek.com:deepseek-v4-pro": Price(
        per_million_tokens=1.32,  # at peak hours; half of it at others
        per_million_output_tokens=3.96,
        source="https://api-docs.deepseek.com/quick_start/pricing",
        read="2026-11-23",
    ),
    "api.fireworks.ai:accounts/fireworks/models/gpt-oss-20b": Price(
        per_million_tokens=0.07,
        per_million_output_tokens=0.3,
        source=_LISTED.format("https://docs.fireworks.ai/serverless/pricing"),
        read="2026-11-23",
    ),
    "api.groq.com:openai/gpt-oss-120b": Price(
        per_million_tokens=0.15,
        per_million_output_tokens=0.6,
        source="https://github.com/BerriAI/litellm (its list of prices)",
        read="2026-11-23",
    ),
    "api.groq.com:openai/gpt-oss-20b": Price(
        per_million_tokens=0.075,
        per_million_output_tokens=0.3,
        source="https://github.com/BerriAI/litellm (its list of prices)",
        read="2026-11-23",
    ),
    "api.mistral.ai:mistral-large-2512": Price(
        per_million_tokens=0.5,
        per_million_output_tokens=1.5,
        source=_LISTED.format("https://docs.mistral.ai/models/mistral-large-3-25-12"),
        read="2026-11-23",
    ),
    "api.mistral.ai:mistral-small-2603": Price(
        per_million_tokens=0.15,
        per_million_output_tokens=0.6,
        source=_LISTED.format("https://docs.mistral.ai/models/model-cards/mistral-small-4-0-26-03"),
        read="2026-11-23",
    ),
    "api.openai.com:gpt-4.1": Price(
        per_million_tokens=2,
        per_million_output_tokens=8,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-4.1-mini": Price(
        per_million_tokens=0.4,
        per_million_output_tokens=1.6,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-4o-mini": Price(
        per_million_tokens=0.15,
        per_million_output_tokens=0.6,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-5": Price(
        per_million_tokens=1.25,
        per_million_output_tokens=10,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-5-mini": Price(
        per_million_tokens=0.25,
        per_million_output_tokens=2,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-5-nano": Price(
        per_million_tokens=0.05,
        per_million_output_tokens=0.4,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-5.4-mini": Price(
        per_million_tokens=0.75,
        per_million_output_tokens=4.5,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-5.4-nano": Price(
        per_million_tokens=0.2,
        per_million_output_tokens=1.25,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-6-luna": Price(
        per_million_tokens=0.1,
        per_million_output_tokens=0.5,
        source="https://developers.openai.com/api/docs/models/gpt-6-luna",
        read="2026-11-23",
    ),
    "api.openai.com:gpt-6.1-sol": Price(
        per_million_tokens=2,
        per_million_output_tokens=10,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.openai.com:gpt-6.1-terra": Price(
        per_million_tokens=1,
        per_million_output_tokens=5,
        source=_OPENAI_LISTED,
        read="2026-11-23",
    ),
    "api.together.ai:Qwen/Qwen3.5-9B": Price(
        per_million_tokens=0.17,
        per_million_output_tokens=0.25,
        source=_TOGETHER_LISTED,
        read="2026-11-23",
    ),
    "api.together.ai:openai/gpt-oss-120b": Price(
        per_million_tokens=0.15,
        per_million_output_tokens=0.6,
        source=_TOGETHER_LISTED,
        read="2026-11-23",
    ),
    "api.together.xyz:Qwen/Qwen3.5-9B": Price(
        per_million_tokens=0.17,
        per_million_output_tokens=0.25,
        source=_TOGETHER_LISTED,
        read="2026-11-23",
    ),
    "api.together.xyz:openai/gpt-oss-120b": Price(
        per_million_tokens=0.15,
        per_million_output_tokens=0.6,
        source=_TOGETHER_LISTED,
        read="2026-11-23",
    ),
    "api.x.ai:grok-4.20-non-reasoning": Price(
        per_million_tokens=1.25,
        per_million_output_tokens=2.5,
        source=_LISTED.format("https://api.x.ai/v1/language-models"),
        read="2026-11-23",
    ),
    "generativelanguage.googleapis.com:gemini-2.5-flash-lite": Price(
        per_million_tokens=0.1,
        per_million_output_tokens=0.4,
        source=_GEMINI_LISTED,
        read="2026-11-23",
    ),
    "generativelanguage.googleapis.com:gemini-3.1-flash-lite": Price(
        per_million_tokens=0.25,
        per_million_output_tokens=1.5,
        source=_GEMINI_LISTED,
        read="2026-11-23",
    ),
    "generativelanguage.googleapis.com:gemini-3.5-flash-lite": Price(
        per_million_tokens=0.3,
        per_million_output_tokens=2.5,
        source=_GEMINI_LISTED,
        read="2026-11-23",
    ),
    "generativelanguage.googleapis.com:gemini-3.8-flash": Price(
        per_million_tokens=0.75,  # until 2026-12-31; then 1.5 and 7.5
        per_million_output_tokens=3.75,
        source=_GEMINI_LISTED,
        read="2026-11-23",
    ),
}
"""By "host:model", as in the address of the service."""
