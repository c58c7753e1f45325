"""What a refusal is about, by its words: there is no other way that all services share."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from rerankx.errors import AuthenticationError, BackendError, ReplyError
from rerankx.llm.chat import Feature, Unable
from rerankx.network.faults import Fault


def _pattern(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE)


_FEATURE_WORDS: Mapping[Feature, re.Pattern[str]] = MappingProxyType(
    {
        "schema": _pattern(
            r"response[_ ]?format", r"json[_ ]schema", r"structured", r"guided", r"grammar", r"json_validate"
        ),
        "logprobs": _pattern(r"log[_ ]?probs?\b", r"top_logprobs", r"log.?probabilit"),
        "seed": _pattern(r"\bseed\b"),
        "temperature": _pattern(r"\btemperature\b"),
        "max_tokens": _pattern(r"max_?(completion_|new_|output_)?tokens"),
    }
)
_CONTEXT_WORDS = _pattern(
    r"context[_ ]?(length|size|window)",
    r"maximum context",
    r"exceed\w* (the )?(model'?s )?context",
    r"\bn_ctx\b",
    r"(prompt|input|inputs|messages?|request)\W? (is|are) too (long|large)",
    r"prompt_too_long",
    r"reduce (the length|your message|the number of tokens)",
    r"`inputs`",
)
_LENGTH_WORDS = _pattern(
    r"too long", r"too many (input |prompt )?tokens", r"exceed[^.]{0,60}\btokens?\b", r"tokens? exceed"
)
"""What speaks of the prompt's length where no wish is named."""
_KEY = _pattern(
    r"api[_ -]?key[^\n]{0,40}(invalid|not valid|incorrect|missing)", r"(invalid|incorrect|missing) api[_ -]?key"
)
_UNABLE = _pattern(
    r"support", r"implement", r"\binvalid\b", r"unrecogni[sz]ed", r"unknown", r"pars(e|ing)", r"not allowed"
)
_NOT_OF_A_WISH = _pattern(
    # No such model.
    r"model_not_found",
    r"model[^\n]{0,120}(not found|not exist)",
    r"(unknown|invalid|no such) model",
    r"not a valid model",
    # Money.
    r"credit balance",
    r"billing",
    r"quota",
)


_FILTERED = _pattern(
    r"content[ _-]?(management|filter|policy)",
    r"responsible_?ai",
    r"inspection_failed",
    r"moderation",
    r"\bflagged\b",
)
"""What speaks of a policy on content: Azure, OpenAI, Alibaba."""
_OF_ACCOUNT = _pattern(
    r"\b(account|resource|organi[sz]ation|subscription|project|tenant|deployment|access|key)\b[^\n]{0,80}"
    r"\b(block|suspend|terminat|flag|disabl|bann|restrict|deactivat)"
)
"""What speaks of who asks, and not of what was asked, though a policy may be why."""
_FIELDS: Mapping[Feature, frozenset[str]] = MappingProxyType(
    {
        "schema": frozenset({"response_format"}),
        "logprobs": frozenset({"logprobs", "top_logprobs"}),
        "seed": frozenset({"seed"}),
        "temperature": frozenset({"temperature"}),
        "max_tokens": frozenset({"max_tokens", "max_completion_tokens"}),
    }
)


def refusal_of(
    fault: Fault,
    status: int,
    body: str,
    *,
    sent: Sequence[str],
    features: frozenset[Feature],
    extra: Collection[str] = (),
) -> Fault | Unable:
    """Return what a reply that refuses is about: a wish, the prompt's length, the key, or no more than its status says.

    Args:
        fault: What it is by its status.
        status: Of the reply, as HTTP has it.
        body: Of the reply.
        sent: The prompts, which a body may quote.
        features: What was wished.
        extra: Names of the fields in the request that are the caller's own: to do without a wish does not help against them.
    """
    param, words = _words(body, sent)
    own = frozenset(feature for feature, fields in _FIELDS.items() if not fields.isdisjoint(extra))
    spoken_of = _named(param, features | own) or _named(words, features | own)
    named = spoken_of - own
    of_extra = param.partition(".")[0] in extra or bool(spoken_of and not named)
    if status == 413 or (status in (400, 404, 422, 500) and _is_about_length(param, words, named)):
        advice = (
            "the prompt does not fit the model's context: pass context_tokens=, a smaller window= or passage_tokens="
        )
        return Fault(BackendError, f"HTTP {status}: {advice}", said=fault.said, answered=True)
    if status == 400 and _KEY.search(words):
        wrong_key = "HTTP 400: the key is wrong or not allowed this model"
        return Fault(AuthenticationError, wrong_key, said=fault.said, answered=True)
    if status in (400, 403) and not named and _FILTERED.search(words) and not _OF_ACCOUNT.search(words):
        return Fault(ReplyError, f"HTTP {status}: a content filter refused the prompt", said=fault.said, answered=True)
    of_wish = (
        (status in (400, 422, 501) and not of_extra)
        or (status == 500 and bool(named) and bool(_UNABLE.search(words)))
        # Of what a model's providers take: OpenRouter, with provider.require_parameters.
        or (status == 404 and "requested parameters" in words.lower())
    )
    if not of_wish or not features or (not named and (_NOT_OF_A_WISH.search(words) or _OF_ACCOUNT.search(words))):
        return fault
    fault.again = fault.sick = False
    return Unable(fault, named)


def blamed_in(words: str, *, sent: Sequence[str], features: frozenset[Feature]) -> frozenset[Feature]:
    """Return which wishes an exception without a status is about, by its words; empty where they do not say so."""
    words = _without(words, sent)
    return _named(words, features) if _UNABLE.search(words) else frozenset()


def _named(words: str, features: frozenset[Feature]) -> frozenset[Feature]:
    """Return which of the features are spoken of."""
    return frozenset(feature for feature in features if _FEATURE_WORDS[feature].search(words))


def _is_about_length(param: str, words: str, named: frozenset[Feature]) -> bool:
    # A schema may be too long as well, and then the field that names the parameter says so.
    if _FEATURE_WORDS["schema"].search(param) or _FEATURE_WORDS["logprobs"].search(param):
        return False
    return bool(_CONTEXT_WORDS.search(words)) or (not named and bool(_LENGTH_WORDS.search(words)))


def _words(body: str, sent: Sequence[str]) -> tuple[str, str]:
    """Return the parameter that a refusal names in a field of its own, and all of its words but those that were sent."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "", body[:2000]
    param, words = "", list[str]()
    for name, text in _strings(found):
        if name == "param" and not param:
            param = text
        words.append(_without(text, sent)[:2000])
    return param, "\n".join(words[:100])


def _without(words: str, sent: Sequence[str]) -> str:
    for prompt in sent:
        words = words.replace(prompt, " ") if len(prompt) > 2 else words
    return words


_ECHOES = frozenset({"input", "body", "request", "failed_generation"})
"""Where a server repeats what it was sent, or what the model said."""


def _strings(found: object) -> Iterator[tuple[str, str]]:
    """Return the strings of a JSON value, each with the name of the field it is in."""
    waiting = deque([("", found)])
    while waiting:
        name, one = waiting.popleft()
        if isinstance(one, str):
            yield name, one
        elif isinstance(one, list):
            waiting.extend((name, part) for part in one)
        elif isinstance(one, Mapping):
            waiting.extend((inner, part) for inner, part in one.items() if inner not in _ECHOES)
