"""Words that prompts and readers share: what an id may be called, letters for ids, what a model's thinking is tagged with."""

from __future__ import annotations

LABELS = (
    *("passage", "document", "doc", "text", "candidate", "item", "snippet", "identifier", "id", "number", "no"),
    *("dokument", "documento", "段落", "文档"),
)
"""What an id is called, in the singular."""
REASONING = ("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "scratchpad")

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""What passages are named where one token is the answer: without I, which may begin a sentence, and O, which reads as 0."""

LABEL = rf"(?:{'|'.join(sorted(LABELS, key=len, reverse=True))})s?"
"""A regular expression for a label."""
