"""The default: words and a small sentence encoder, inside the wheel. No download, no key, no torch."""

from rerankx.backends.embedded.backend import Embedded

__all__ = ["Embedded"]
