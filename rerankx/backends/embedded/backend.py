"""`Embedded`: the backend of `Reranker()`."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankx.backends.embedded.combine import Parts, Query, pack, parts_of, query_of
from rerankx.backends.embedded.encoder import DIMENSIONS, POSITIONS, SentenceEncoder, shared_encoder
from rerankx.backends.embedded.lexical import shared_lexicon
from rerankx.backends.embedded.vectors import VectorCache, content_key
from rerankx.catalogue import EMBEDDED
from rerankx.engines.pool import run_longest_first
from rerankx.errors import DeadlineError, ModelNotFoundError
from rerankx.interface import Backend, Scale, Scores, Usage, out_of_time

logger = logging.getLogger("rerankx")

# Raise it when the way the parts are combined changes a score.
_METHOD = 1


class Embedded(Backend):
    """Scores by words and by the vectors of a small sentence encoder that ships in the wheel.

    Pointwise, SIMILARITY in [0, 1]. Texts are encoded once and kept, so a passage seen again costs a fraction of a
    millisecond. `Hit.details` holds the three parts that add up to a score: "cosine", "maxsim" and "lexical" (see
    `combine`). English only: a query in another script is ranked with a warning, one of which the vocabulary has no word
    leaves the texts unscored, `degraded="incomplete"`.

    Args:
        model: "all-MiniLM-L6-v2", the only one there is.
        max_tokens: How much of a text, and of the query, the encoder reads, in its tokens, [CLS] and [SEP] included; 8 to 512.
            Words behind it still count in the lexical part; `truncated` says how many texts were longer. With 128 long texts
            take half the time, and the tuning sets lost nothing.
        cache_bytes: Memory for the vectors of texts, at least 0; a text of 100 tokens takes about 40 kB.

    Raises:
        ModelNotFoundError: Another model is asked for.
        TypeError: An option that is not a whole number.
        ValueError: An option out of its range.
    """

    name = "embedded"
    model = EMBEDDED.model
    scale = Scale.similarity(0, 1)
    pointwise = True

    def __init__(self, model: str = EMBEDDED.model, *, max_tokens: int = 256, cache_bytes: int = 64 * 2**20) -> None:
        if model != EMBEDDED.model:
            raise ModelNotFoundError(f"backend 'embedded' has one model, {EMBEDDED.model!r}, and no {model!r}")
        self.max_tokens = _whole("max_tokens", max_tokens, 8, POSITIONS)
        self.cache_bytes = _whole("cache_bytes", cache_bytes, 0, None)
        self._cache = VectorCache(self.cache_bytes)
        self._warned = False

    @property
    def fingerprint(self) -> str:
        """Return name, model, revision of file and method, and the length read."""
        return f"{self.name}:{self.model}@{EMBEDDED.sha256[:12]}.{_METHOD}:max_tokens={self.max_tokens}"

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        if not self._warned and not _in_latin_script(query):
            self._warned = True
            logger.warning(
                "the embedded model reads English; the order it gives to a query in this script means little"
            )
        (asked,) = run_longest_first(self._encode_query, [query], sizes=[1])
        if asked is None:
            return Scores([None] * len(texts), degraded="deadline")
        if not len(asked.tokens):
            # Characters that the vocabulary lacks all look alike: a score would say that everything is similar.
            logger.warning("the embedded model knows no word of this query; the documents stay unscored")
            return Scores([None] * len(texts), degraded="incomplete")
        keys = [content_key(text) for text in texts]
        scored = self._score_known(asked, keys)
        hits = sum(key in scored for key in keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in scored}
        sizes = [len(text) for text in missing.values()]
        done = run_longest_first(partial(self._encode_and_score, asked), list(missing.items()), sizes=sizes)
        scored |= {key: one for key, one in zip(missing, done, strict=True) if one is not None}
        found = [scored.get(key) for key in keys]
        return Scores(
            [None if one is None else sum(one.parts) for one in found],
            details=[None if one is None else one.parts._asdict() for one in found],
            usage=Usage(
                input_tokens=asked.length + sum(one.tokens for one in scored.values()),
                cache_hits=hits,
                cache_misses=len(keys) - hits,
            ),
            cut=[one is not None and one.cut for one in found],
            degraded="deadline" if None in found else None,
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the texts' vectors, [n, 384] and each of length 1: for a first stage, or to find what is alike.

        The mean of a text's token vectors, from the same encoder and cache that score: the product of two of them is the cosine
        that a score is made of.

        Raises:
            TypeError: `texts` is one string, or holds something else than strings.
            DeadlineError: The deadline around the call has passed.
        """
        if isinstance(texts, str):
            raise TypeError("texts is one string; pass a list of strings")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"text {i} is {type(text).__name__}, not a string")
        keys = [content_key(text) for text in texts]
        items = dict(zip(keys, texts, strict=True))
        made = run_longest_first(self._mean, list(items.items()), sizes=[len(text) for text in items.values()])
        means = {key: mean for key, mean in zip(items, made, strict=True) if mean is not None}
        if len(means) < len(items):
            raise DeadlineError(f"the deadline passed with {len(means)} of {len(items)} texts encoded")
        return np.array([means[key] for key in keys], np.float32).reshape(len(keys), DIMENSIONS)

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return where each word piece of the text begins and ends, in characters."""
        return self._encoder().spans(text)

    def _encode_query(self, query: str) -> Query:
        return query_of(self._encoder().encode(query, max_tokens=self.max_tokens), shared_lexicon())

    def _score_known(self, query: Query, keys: Iterable[bytes]) -> dict[bytes, _Scored]:
        lexicon, over = shared_lexicon(), out_of_time()
        scored = {}
        for key in dict.fromkeys(keys):
            entry = self._cache.get(key)
            if entry is not None and not over():
                scored[key] = _Scored(parts_of(query, entry, lexicon), entry.cut, 0)
        return scored

    def _encode_and_score(self, query: Query, item: tuple[bytes, str]) -> _Scored:
        # What the cache does not keep is gone after this, so that a long list of texts takes no more memory than a short one.
        key, text = item
        encoding = self._encoder().encode(text, max_tokens=self.max_tokens)
        packed = pack(encoding, shared_lexicon())
        self._cache.put(key, packed)
        return _Scored(parts_of(query, packed, shared_lexicon()), packed.cut, len(encoding.vectors))

    def _mean(self, item: tuple[bytes, str]) -> NDArray[np.float32]:
        key, text = item
        entry = self._cache.get(key)
        if entry is None:
            entry = pack(self._encoder().encode(text, max_tokens=self.max_tokens), shared_lexicon())
            self._cache.put(key, entry)
        return entry.mean

    def _encoder(self) -> SentenceEncoder:
        return shared_encoder()

    def __reduce__(self) -> tuple[object, ...]:
        # Options travel, vectors and weights do not.
        return partial(type(self), max_tokens=self.max_tokens, cache_bytes=self.cache_bytes), ()


class _Scored(NamedTuple):
    parts: Parts
    cut: bool
    tokens: int
    """Read for it now; 0 if it was known."""


def _in_latin_script(text: str) -> bool:
    """Return whether at least half of the text's letters are Latin ones."""
    letters = [character for character in text if character.isalpha()]
    return 2 * sum(character < "\u0250" for character in letters) >= len(letters)


def _whole(name: str, value: int, low: int, high: int | None) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name} must be {f'at least {low}' if high is None else f'in [{low}, {high}]'}, not {number}")
    return number
