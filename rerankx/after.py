"""What may follow the order: near-duplicates out, variety, an order for language models, a token budget.

    Reranker("minilm", after=[drop_near_duplicates, lost_in_the_middle])
    Reranker("minilm", after=[partial(mmr, balance=0.5)])
    drop_near_duplicates(ranking, threshold=0.9)

Each takes a `Ranking` and returns one, of the same hits: `Hit.rank` stays the place by relevance, wherever a hit now stands. None
is on unless asked for, and none belongs in front of an evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rerankx.arguments import checked_top_n, shown
from rerankx.compose.made import whole
from rerankx.ranking import Hit, Ranking

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from rerankx.backends.embedded import Embedded

T = TypeVar("T")
Embed: TypeAlias = "Callable[[list[str]], ArrayLike]"
"""Returns the vectors of texts, [n, d]: `embeddings.embed_documents` of LangChain, `embed_model.get_text_embedding_batch` of
LlamaIndex."""

logger = logging.getLogger("rerankx")

_PART = 250  # tokens; the encoder reads 256 with its two marks
_ROUNDING = 1e-9  # of a cosine


def drop_near_duplicates(
    ranking: Ranking[T], top_n: int | None = None, *, threshold: float = 0.95, embed: Embed | None = None
) -> Ranking[T]:
    """Return the ranking without the hits whose text is nearly that of one above them.

    From the top down each hit stays, unless the cosine of its vector with that of one that stays is at least `threshold`. Nothing
    goes unseen: the `details` of the one that stays hold {"duplicates": [index, ...]}, the `Hit.index` of those that went for it.
    Equal texts are always duplicates, blank ones never. Not cut to `top_n`, so that there is enough left to cut.

    Vectors see subjects better than numbers and negations: with the embedded encoder two sentences that differ in a price alone,
    or in a "not", are nearer to one another than a paraphrase is, and often above the default threshold. Raise it where that
    matters; at 1.0 only equal texts go, and what the vectors cannot tell apart.

    Args:
        ranking: What to go through, in the order in which it stands.
        top_n: Not used.
        threshold: Cosine in (0, 1].
        embed: Vectors of texts, [n, d]. None = the embedded encoder's, of whole texts: English, long ones in parts.

    Raises:
        ValueError: A threshold out of its range, or vectors that are not one finite vector per text.
        TypeError: An argument of the wrong type.
    """
    _check_function("embed", embed, "embeddings.embed_documents")
    threshold = _number("threshold", threshold)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a cosine above 0 and at most 1, not {threshold:g}")
    places = _places(ranking)
    stays_for = _greedy(_unit_vectors(list(places), embed), threshold) if len(places) > 1 else [0]
    first = [there[0] for there in places.values()]
    kept = {place: first[stays_for[i]] for i, there in enumerate(places.values()) for place in there}
    gone: dict[int, list[object]] = {}
    for place, hit in enumerate(ranking):
        if kept.get(place, place) != place:
            gone.setdefault(kept[place], []).extend([hit.index, *_duplicates(hit)])
    hits = []
    for place, hit in enumerate(ranking):
        if kept.get(place, place) == place:
            more = gone.get(place)
            hits.append(_with_details(hit, {"duplicates": [*_duplicates(hit), *more]}) if more else hit)
    return replace(ranking, hits=tuple(hits))


def mmr(
    ranking: Ranking[T], top_n: int | None = None, *, balance: float = 0.7, embed: Embed | None = None
) -> Ranking[T]:
    """Return the hits in an order that weighs relevance against likeness to those before (maximal marginal relevance).

    Next is always the one with the most `balance` * relevance - (1 - `balance`) * the highest cosine with one that is placed; of
    equals the one that stood first. Relevance is `Hit.score`, stretched to [0, 1] over this ranking. Unscored hits stay last.
    Where questions have one answer this costs quality; `drop_near_duplicates` is the safer choice.

    Args:
        ranking: What to reorder.
        top_n: Return that many, and save the work for the others; None returns all.
        balance: Weight of relevance in [0, 1]; 1 changes nothing.
        embed: Vectors of texts, [n, d]. None = the embedded encoder's, of whole texts: English, long ones in parts.

    Raises:
        ValueError: A number out of its range, or vectors that are not one finite vector per text.
        TypeError: An argument of the wrong type.

    Source: Carbonell and Goldstein, SIGIR 1998, doi:10.1145/290941.291025.
    """
    _check_function("embed", embed, "embeddings.embed_documents")
    balance, top_n = _number("balance", balance), checked_top_n(top_n)
    if not 0 <= balance <= 1:
        raise ValueError(f"balance lies in [0, 1]; {balance:g} does not")
    scored = [hit for hit in ranking if hit.raw_score is not None]
    unscored = [hit for hit in ranking if hit.raw_score is None]
    if balance < 1 and len(scored) > 1:
        scored = [scored[i] for i in _marginal(scored, len(scored) if top_n is None else top_n, balance, embed)]
    return replace(ranking, hits=(*scored, *unscored)[:top_n])


def lost_in_the_middle(ranking: Ranking[T], top_n: int | None = None) -> Ranking[T]:
    """Return the best hits at both ends and the least relevant in the middle: 1, 3, 5, ..., 6, 4, 2.

    For a long context: language models use best what stands at its beginning and end, recent ones evenly enough. Cut to `top_n`
    first, so this is always the last step.

    Args:
        ranking: What to reorder.
        top_n: Keep that many, at least 1; None keeps all.

    Source: Liu et al., TACL 2024, arXiv 2307.03172.
    """
    best = ranking.hits[: checked_top_n(top_n)]
    return replace(ranking, hits=best[::2] + best[1::2][::-1])


def fill_budget(
    ranking: Ranking[T],
    top_n: int | None = None,
    *,
    budget_tokens: int,
    count_tokens: Callable[[str], int] | None = None,
) -> Ranking[T]:
    """Return the hits that fit into a token budget together, taken from the top down.

    One that does not fit is passed over, and the next may fit. Where none does, the ranking is empty and a warning is logged.
    What stands between the texts in a prompt is not counted.

    Args:
        ranking: What to take from, in the order in which it stands.
        top_n: Take at most that many; None takes all that fit.
        budget_tokens: Tokens in all, at least 1.
        count_tokens: Returns the number of a text's tokens, as the model counts them that is to read it. None = the embedded
            encoder's word pieces, an estimate for any other model.

    Raises:
        ValueError: A number out of its range.
        TypeError: An argument of the wrong type.
    """
    _check_function("count_tokens", count_tokens, "lambda text: len(tokenizer.encode(text))")
    left, top_n = whole("budget_tokens", budget_tokens), checked_top_n(top_n)
    count = _word_pieces if count_tokens is None else count_tokens
    hits: list[Hit[T]] = []
    for hit in ranking:
        if len(hits) == top_n:
            break
        size = whole("what count_tokens returns", count(hit.text), low=0)
        if size <= left:
            hits.append(hit)
            left -= size
    if ranking.hits and not hits:
        logger.warning("none of %d texts fits into budget_tokens=%d; the ranking is empty", len(ranking), budget_tokens)
    return replace(ranking, hits=tuple(hits))


def _places(hits: Sequence[Hit[T]]) -> dict[str, list[int]]:
    """Return where each text stands that is not blank."""
    places: dict[str, list[int]] = {}
    for place, hit in enumerate(hits):
        if hit.text.strip():
            places.setdefault(hit.text, []).append(place)
    return places


def _greedy(vectors: NDArray[np.float64], threshold: float) -> list[int]:
    """Return for each vector the number of the first one that stays and is near it: its own, if it stays."""
    n = len(vectors)
    stays_for = [-1] * n
    for i in range(n):
        if stays_for[i] < 0:
            stays_for[i] = i
            for j, cosine in enumerate((vectors[i:] @ vectors[i]).tolist(), start=i):
                if cosine >= threshold - _ROUNDING and stays_for[j] < 0:
                    stays_for[j] = i
    return stays_for


def _marginal(hits: Sequence[Hit[T]], n: int, balance: float, embed: Embed | None) -> list[int]:
    """Return the places of the first n hits of the new order."""
    import numpy as np

    places = _places(hits)
    # Equal texts share a row, so that rounding cannot tell them apart; blank ones have the last, which is like nothing.
    vectors = _unit_vectors(list(places), embed)
    vectors = np.vstack([vectors, np.zeros_like(vectors, shape=(1, vectors.shape[1]))])
    row = np.full(len(hits), len(places))
    for i, there in enumerate(places.values()):
        row[there] = i
    scores = np.array([hit.score for hit in hits])
    span = scores.max() - scores.min()
    relevance = (scores - scores.min()) / span if span > 0 else np.zeros(len(hits))
    nearest = np.zeros(len(vectors))
    free = np.ones(len(hits), bool)
    order: list[int] = []
    while len(order) < min(n, len(hits)):
        gain = balance * relevance - (1 - balance) * nearest[row]
        chosen = int(np.argmax(np.where(free, gain, -np.inf)))  # the first of equals
        likeness = vectors @ vectors[row[chosen]]
        nearest = np.maximum(nearest, likeness) if order else likeness
        free[chosen] = False
        order.append(chosen)
    return order


def _unit_vectors(texts: list[str], embed: Embed | None) -> NDArray[np.float64]:
    """Return one vector of length 1 per text, [n, d]; one of zeros stays so, and is like nothing."""
    import numpy as np

    if not texts:
        return np.zeros((0, 1))
    made = _embedded_vectors(texts) if embed is None else embed(list(texts))
    try:
        vectors = np.array(made, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"embed returned what is no array of numbers for {len(texts)} texts: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        raise ValueError(
            f"embed returned an array of shape {vectors.shape} for {len(texts)} texts; expected ({len(texts)}, d)"
        )
    finite = [bool(np.isfinite(vector).all()) for vector in vectors]
    if not all(finite):
        raise ValueError(f"embed returned a vector that is not finite for text {finite.index(False)} of {len(texts)}")
    # Twice: squares of very large and very small numbers are none.
    for norm in (np.inf, 2):
        length = np.linalg.norm(vectors, norm, axis=1)
        vectors /= np.where(length > 0, length, 1)[:, None]
    return vectors


def _embedded_vectors(texts: list[str]) -> NDArray[np.float64]:
    """Return the embedded encoder's vectors of whole texts: the mean over parts that it can read, by their tokens."""
    import numpy as np

    encoder = _embedded()
    parts: list[str] = []
    weights: list[int] = []
    owners: list[int] = []
    for i, text in enumerate(texts):
        for part, weight in _parts(text, encoder.token_spans(text)):
            parts.append(part)
            weights.append(weight)
            owners.append(i)
    made = encoder.embed(parts)
    vectors = np.zeros((len(texts), made.shape[1]))
    np.add.at(vectors, owners, made * np.array(weights, np.float64)[:, None])
    return vectors


def _parts(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Yield the text in parts of so many tokens, each with its number of them; a short one is its own part."""
    if len(spans) <= _PART:
        yield text, max(len(spans), 1)
        return
    for start in range(0, len(spans), _PART):
        some = spans[start : start + _PART]
        yield text[some[0][0] : some[-1][1]], len(some)


@cache
def _embedded() -> Embedded:
    from rerankx.backends.embedded import Embedded

    return Embedded()


def _word_pieces(text: str) -> int:
    return len(_embedded().token_spans(text))


def _check_function(name: str, function: object, example: str) -> None:
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be a function, such as {example}, not {type(function).__name__}")


def _duplicates(hit: Hit[object]) -> list[object]:
    """Return what went for this hit in an earlier pass."""
    earlier = (hit.details or {}).get("duplicates")
    return list(earlier) if isinstance(earlier, list | tuple) else []


def _with_details(hit: Hit[T], more: Mapping[str, object]) -> Hit[T]:
    return replace(hit, details={**(hit.details or {}), **more})


def _number(name: str, value: object) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    return float(value)
