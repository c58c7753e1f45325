"""A language model that is shown several passages and puts them in order."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal, cast

from rerankx.errors import BackendError, ReplyError
from rerankx.fusion import rrf
from rerankx.interface import Degraded, Scale, Scores
from rerankx.llm.asking import Asking, Job, Question, out_of_budget, shortened, together
from rerankx.llm.chat import Feature, Reply
from rerankx.llm.passages import fenced, fenced_query, letters, numbers, tokens_in
from rerankx.llm.prompts import builtin, own, part
from rerankx.llm.replies import Order, order_of_first_token, read_order
from rerankx.llm.windows import Strategy, sliding
from rerankx.network.service import whole

logger = logging.getLogger("rerankx")

STRATEGIES: Mapping[str, Strategy] = {"sliding": sliding, "first-token": sliding}

_TOKENS_PER_ID, _TOKENS_BESIDE = 6, 60  # of an answer, as JSON; more are reserved where a model thinks aloud
_FENCE_TOKENS = 16
_FEWEST_IDS = 4  # of an order that says something of whether a model ranks at all
_FEWEST_TOKENS = 48  # of a passage: rather fewer passages at a time than less of each
# OpenAI tells the log-probabilities of 20 tokens: https://platform.openai.com/docs/api-reference/chat
_MOST_LETTERS = 20


class Listwise(Asking):
    """Orders texts by asking a language model for the order of a few at a time.

        Reranker("listwise", llm=ChatOpenAI(model="gpt-6-luna"))
        Reranker("listwise:gpt-6-luna")
        Reranker("listwise:qwen3", base_url="http://localhost:8000/v1")

    Windows of 20 passages slide from the back of the list to its front, so texts must come best first, as a retriever returns
    them. Each window is one question: 4 for 50 texts, 9 for 100. The answer can only be an order of the texts that were shown:
    ids that were not are dropped, missing ones follow in the order in which they came, and what is no order is not taken for one.

    Where time or a budget runs out after the first window, the order that was reached stands, with `degraded="deadline"`.

    Args:
        model: The model, as the service at `base_url` names it; not with `llm`.
        llm: A LangChain chat model or another Runnable, a LlamaIndex LLM, or a function of a list of {"role", "content"} that
            returns the reply, sync or async. It keeps its own settings, retries and callbacks.
        base_url: Address of an OpenAI-compatible service; None reads OPENAI_BASE_URL, else OpenAI's own.
        api_key: The key; None reads OPENAI_API_KEY for those two, and RERANKX_LLM_API_KEY for another `base_url`.
        headers: More headers. They may hold secrets: they are in no message, and what has them does not pickle.
        extra: More fields of the request's body, such as {"reasoning_effort": "minimal"}.
        strategy: "sliding", or "first-token", which reads the order of a window from the log-probabilities of one token: fewer
            tokens and less time. A model that does not tell them is asked as in "sliding", and a warning and `details` say why.
        window: How many passages are shown at a time, at least 2; "all" is one question where all fit into the model's context.
            Fewer are shown where the context has not 48 tokens for each. At most 20 with "first-token".
        step: How far a window moves; None is half of it. One pass settles the first `window - step` places. There are as many
            passes as `top_n` needs, and one without it.
        shuffles: How many times more each window is asked, with its passages in a random order each time, all at once; the
            answers are merged by reciprocal rank fusion. It is a cure for models that prefer what they see first, at that many
            times the price.
        seed: Of the random orders.
        prompt: A template of your own, with {query}, {passages} and {answer}, and for "first-token" {query} and {passages}; {n}
            is their number.
        passage_tokens: Of a longer passage only the beginning is shown; it is counted in `truncated`.
        context_tokens: The model's context; None asks the model or its server, and without an answer nothing is cut for it.
        max_output_tokens: Of a reply, a model's thinking included. An `llm` has its own limit.
        lacks: What the model does not have, of "seed", "logprobs", "schema", "temperature" and "max_tokens". A request that is
            refused for one of them is sent again without it, and so are all that follow.
        on_bad_reply: What becomes of a window where the model's answer is no order of its passages, twice: "raise" a
            `ReplyError`, or keep its "input_order", with `degraded="incomplete"` and {"kept": "input_order"} in the `details` of
            its texts.
        timeout_s: Seconds for one request, to its last byte.
        deadline_s: Seconds for one ranking, with all questions, tries and waits; None = no bound.
        max_retries: Tries after the first: of 408, 409, 429, 5xx and broken connections. None is 2, and 0 for an `llm`, which may
            try again by itself.
        requests_per_minute: Sent in any 60 seconds, by all backends of this process with the same address, key and limit; None =
            no limit.
        max_concurrency: Requests under way at a time, over all threads and event loops.
        failure_threshold: Faults of the service in a row after which nothing is sent for a while; None = never.
        recovery_s: Seconds of that while.
        max_calls: Requests in all; what would be one more is not sent. None = no limit.
        max_input_tokens: Tokens read, in all, likewise.
        budget_usd: US dollars in all, likewise.
        price: {"per_million_tokens": usd, "per_million_output_tokens": usd}; None is the published one, if it is known.

    Raises:
        AuthenticationError: OpenAI is to be asked, and there is no key.
        TypeError: An argument of the wrong type, or something beside `llm` that it has itself.
        ValueError: An argument out of its range, or neither a model nor an llm.

    Source: Sun et al., EMNLP 2023, arXiv:2304.09542 (sliding); Reddy et al., EMNLP 2024, arXiv:2406.15657 (first-token); Tang et
    al., NAACL 2024, arXiv:2310.07712 (shuffles).
    """

    name = "listwise"
    scale = Scale.RANK
    pointwise = False
    _on_bad_reply: ClassVar[tuple[str, str]] = ("raise", "input_order")

    def __init__(
        self,
        model: str | None = None,
        *,
        llm: object = None,
        base_url: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        strategy: Literal["sliding", "first-token"] = "sliding",
        window: int | Literal["all"] = 20,
        step: int | None = None,
        shuffles: int = 0,
        seed: int = 0,
        prompt: str | None = None,
        passage_tokens: int = 400,
        context_tokens: int | None = None,
        max_output_tokens: int = 4096,
        lacks: Collection[str] = (),
        on_bad_reply: Literal["raise", "input_order"] = "raise",
        timeout_s: float = 60.0,
        deadline_s: float | None = None,
        max_retries: int | None = None,
        requests_per_minute: int | None = None,
        max_concurrency: int = 8,
        failure_threshold: int | None = 5,
        recovery_s: float = 30.0,
        max_calls: int | None = None,
        max_input_tokens: int | None = None,
        budget_usd: float | None = None,
        price: Mapping[str, float] | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "api_key", "__class__")}
        if strategy not in STRATEGIES:
            known = f"{', '.join(STRATEGIES)}; each text by itself is what the backend 'judge' does"
            raise ValueError(f"strategy must be one of {known}; not {str(strategy)[:40]!r}")
        self._strategy, self.first_token = STRATEGIES[strategy], strategy == "first-token"
        self.all = window == "all" and not self.first_token
        self.window = 20 if window == "all" else _at_least("window", window, 2)
        if self.first_token and self.window > _MOST_LETTERS:
            raise ValueError(f"window must be at most {_MOST_LETTERS} with first-token, not {self.window}")
        self._step = None if step is None else _at_least("step", step, 1)
        if self._step is not None and self._step >= self.window:
            raise ValueError(
                f"step must be smaller than the window of {self.window}, or texts are left out; not {step}"
            )
        self.shuffles, self.seed = _at_least("shuffles", shuffles, 0), _at_least("seed", seed, 0)
        self.keeps_order = on_bad_reply == "input_order"
        needs = ("query", "passages") if self.first_token else ("query", "passages", "answer")
        ours = builtin("first-token" if self.first_token else "listwise")
        self.template = ours if prompt is None else own(prompt, needs=needs, may=["n"])
        self.generating = builtin("listwise") if self.first_token else self.template
        super().__init__(given, api_key=api_key)
        if self.first_token and "logprobs" in self._lacks:
            logger.warning("listwise:%s tells no log-probabilities: it is asked as in sliding", self.model)

    @property
    def fingerprint(self) -> str:
        """Return name, model, address, the prompt's id, and a digest of the options that change an order."""
        names = ("strategy", "window", "step", "shuffles", "seed")
        return self._fingerprint(self.template.id, names, ("answer-json", "answer-brackets"), self.generating.id)

    async def _asked(self, job: Job, query: str, texts: Sequence[str], top_n: int | None) -> Scores:
        order, degraded = list(range(len(texts))), cast("Degraded | None", None)
        listing = _Listing(self, job, query, len(texts))
        if len(texts) > 1:  # one needs no order
            window = await listing.prepare(texts)
            step = min(self._step or window // 2, window - 1)
            try:
                steps = self._strategy(len(texts), listing.ranked, top_n=top_n, window=window, step=step)
                async for better in steps:
                    order = better
            except BackendError as error:
                if not ((job.answers or listing.kept) and out_of_budget(error)):
                    raise
                degraded = "deadline"
            if listing.ended is not None:
                degraded = "deadline"
            if job.moved is not None:
                self.tally.ranked(moved=job.moved)
        values = [0.0] * len(texts)
        for place, index in enumerate(order):
            values[index] = float(len(texts) - place)
        return Scores(
            values,
            details=listing.details(),
            cut=listing.cut,
            degraded=degraded or ("incomplete" if listing.kept else None),
        )


class _Listing:
    """One ranking: the passages as they are shown, and what a window of them is asked."""

    def __init__(self, backend: Listwise, job: Job, query: str, n: int) -> None:
        self._backend, self._job, self._n = backend, job, n
        self._query = fenced_query(query)
        self._shown: list[str] = []
        self.cut: Sequence[bool] = [False] * n
        self.kept: set[int] = set()
        """Texts whose window kept its order, since there was no answer."""
        self.generated: set[int] = set()
        """Texts that were to be ordered by a first token, and were not."""
        self.ended: BackendError | None = None
        """What ended some of a window's shuffles, but not all."""

    async def prepare(self, texts: Sequence[str]) -> int:
        """Cut the passages to what there is room for, and return how many are shown at a time.

        Raises:
            BackendError: There is no room for two.
        """
        backend, longest = self._backend, max(map(tokens_in, texts))
        window = min(self._n, backend.window)
        skeleton = self._prompt("", part("answer-json") + part("again"))
        if backend.first_token:
            skeleton = max(skeleton, backend.template.filled(query=self._query, passages="", n=""), key=tokens_in)
        room = await backend.room(self._job, skeleton, reserved=_TOKENS_BESIDE)
        if room is not None:
            room //= backend.template.text.count("{passages}")
        tokens = backend.passage_tokens
        if backend.all and (room is None or _each(room, self._n) >= min(tokens, longest)):
            window = self._n
        if room is not None:
            while window > 2 and _each(room, window) < min(_FEWEST_TOKENS, tokens, longest):
                window -= 1
            tokens = min(tokens, _each(room, window))
            if tokens < 1:
                raise BackendError(
                    f"{backend.name}:{backend.model}: no room for two passages in a context of {self._job.context} tokens:"
                    " shorten the query or the prompt"
                )
        self._shown, self.cut = shortened(texts, tokens)
        return window

    async def ranked(self, window: Sequence[int]) -> Sequence[int]:
        """Return the text indices, as the model orders them.

        Raises:
            ReplyError: It does not, and that is to be raised.
            BackendError: No reply.
        """
        if len(window) < 2:
            return window
        places = list(range(len(window)))
        asked = [places]
        for i in range(self._backend.shuffles):
            # Other orders for another query: the same ones each time would favour the same places each time. The passages, whose
            # authors might choose them for it, have no say in it.
            chance = random.Random(f"{self._backend.seed} {i} {window} {self._query}")  # noqa: S311
            asked.append(chance.sample(places, len(places)))
        answers = await together([self._order(window, shown) for shown in asked])
        self.ended = next((answer for answer in answers if isinstance(answer, BackendError)), self.ended)
        orders = [answer for answer in answers if isinstance(answer, list)]
        if self.ended is not None and not orders:
            raise self.ended
        if not orders:
            self.kept.update(window)
            return window
        if len(orders) == 1:
            return [window[place] for place in orders[0]]
        fused = rrf(orders, n=len(window))
        return [window[place] for place in sorted(places, key=lambda place: (-fused[place], place))]

    async def _order(self, window: Sequence[int], shown: Sequence[int]) -> list[int] | BackendError | None:
        """Return the places of a window as the model orders them that is shown them in this order; None if it keeps its own.

        Where a limit of the caller's own is used up, return what says so: the other shuffles may have been answered.
        """
        backend, passages = self._backend, [self._shown[window[place]] for place in shown]
        try:
            order = await self._ordered(window, passages)
        except ReplyError:
            if not backend.keeps_order:
                raise
            return None
        except BackendError as error:
            if not out_of_budget(error):
                raise
            return error
        if len(passages) >= _FEWEST_IDS:
            in_order = list(range(len(passages)))
            self._job.moved = bool(self._job.moved) or list(order.indices) not in (in_order, in_order[::-1])
        return [shown[place] for place in order.indices]

    async def _ordered(self, window: Sequence[int], passages: Sequence[str]) -> Order:
        """Return the order that the model gives the passages of a window, and note where it gave none by a first token."""
        backend, n = self._backend, len(passages)
        block = fenced(passages, numbers(n))

        def in_words(lacking: Collection[Feature], again: str) -> Question:
            form = "answer-brackets" if "schema" in lacking else "answer-json"
            prompt = self._prompt(block, part(form) + again)
            wish = backend.wish(self._job, prompt, lacking, schema=_schema(n))
            return Question(prompt, wish, _TOKENS_PER_ID * n)

        def read(reply: Reply) -> tuple[Order, Sequence[str]]:
            order = read_order(reply.text, n)
            return order, order.repairs

        if not backend.first_token:
            written = await backend.answer(self._job, in_words, read)
            assert written is not None, "an order in words needs no feature"
            return written
        lettered = fenced(passages, letters(n))

        def one_token(lacking: Collection[Feature], again: str) -> Question | None:
            if "logprobs" in lacking:
                return None
            prompt = backend.template.filled(query=self._query, passages=lettered, n=str(n))
            return Question(prompt, backend.wish(self._job, prompt, lacking, one_token=True), 1)

        weigh = partial(order_of_first_token, n=n)
        order, weighed = await backend.likely_answer(self._job, one_token, weigh, in_words, read)
        if not weighed:
            self.generated.update(window)
        return order

    def _prompt(self, block: str, answer: str) -> str:
        n = str(block.count("</passage>"))
        return self._backend.generating.filled(query=self._query, passages=block, n=n, answer=answer)

    def details(self) -> list[Mapping[str, object] | None] | None:
        """Return what is to be told of each text; None if nothing is."""
        generated = {"strategy": "sliding", "because": self._job.without}
        found: list[dict[str, object]] = [{} for _ in range(self._n)]
        for i in self.generated:
            found[i] |= generated
        for i in self.kept:
            found[i]["kept"] = "input_order"
        return [detail or None for detail in found] if any(found) else None


def _each(room: int, window: int) -> int:
    """Return how many tokens each passage may have."""
    return room // window - _FENCE_TOKENS - _TOKENS_PER_ID


def _schema(n: int) -> dict[str, object]:
    """Return what an answer is: every id once. That each is there once cannot be said in the schemas that services take."""
    ids = {"type": "integer", "enum": list(range(1, n + 1))}
    ranking = {"type": "array", "items": ids, "minItems": n, "maxItems": n}
    return {
        "type": "object",
        "properties": {"ranking": ranking},
        "required": ["ranking"],
        "additionalProperties": False,
    }


def _at_least(name: str, value: object, low: int) -> int:
    number = whole(name, value, low=low)
    if number is None:
        raise TypeError(f"{name} must be a whole number, not None")
    return number
