"""Facts on known models, each with its source. Nothing here is loaded or fetched."""

from rerankx.catalogue.cards import CrossEncoderCard, Golden, ModelCard, Published
from rerankx.catalogue.cross_encoders import CROSS_ENCODERS, card_of
from rerankx.catalogue.embedded import EMBEDDED
from rerankx.catalogue.flashrank import FLASHRANK

__all__ = [
    "CROSS_ENCODERS",
    "EMBEDDED",
    "FLASHRANK",
    "CrossEncoderCard",
    "Golden",
    "ModelCard",
    "Published",
    "card_of",
]
