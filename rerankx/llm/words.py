"""Words that several readers look for: what an id may be called, and what a model's thinking is tagged with."""

from __future__ import annotations

LABELS = (
    *("passage", "document", "doc", "text", "candidate", "item", "snippet", "identifier", "id", "number", "no"),
    *("dokument", "documento", "段落", "文档"),
)
"""What an id is called, in the singular."""
REASONING = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad")

LABEL = rf"(?:{'|'.join(sorted(LABELS, key=len, reverse=True))})s?"
"""A regular expression for a label."""
