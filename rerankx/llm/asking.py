"""`Asking`: a backend that asks a chat model. What the model does not take it does without; what is no answer it asks again."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import FunctionType
from typing import Any, ClassVar, Self, TypeVar, cast, get_args

from rerankx.catalogue.chat_prices import CHAT_PRICES
from rerankx.catalogue.prices import Price
from rerankx.errors import BackendError, BudgetError, DeadlineError, RateLimitError, ReplyError
from rerankx.interface import Scores, Usage, deadline, remaining_s
from rerankx.llm.bridges import chat_of
from rerankx.llm.chat import Chat, Feature, Reply, Unable, Wish
from rerankx.llm.openai import OpenAIChat
from rerankx.llm.passages import neutralised, tokens_in, trimmed
from rerankx.llm.prompts import part, version
from rerankx.llm.tally import Replies, Tally
from rerankx.network import loop
from rerankx.network.meter import checked_chat_price
from rerankx.network.service import Service, checked_extra, whole

T = TypeVar("T")

logger = logging.getLogger("rerankx")

FEATURES: tuple[Feature, ...] = get_args(Feature)
_SOON_S = 0.01
_SEED = 7  # any number, but always the same
_ODD_IN_A_ROW = 5  # first tokens that are no answer, and none before that was: it thinks first, or does not know labels
_ROOM = 0.9  # of a context: tokens are estimated, which is 15 % too few for JSON, and too many for English


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and what is wished of the reply."""

    prompt: str
    wish: Wish
    answer_tokens: int
    """About how many the answer takes, for an estimate of its price."""


@dataclass(slots=True)
class Job:
    """One ranking: what it has used, and what its result lacks."""

    blocking: bool
    usage: Usage = field(default_factory=Usage)
    answers: int = 0
    """Replies that could be read."""
    context: int | None = None
    """How many tokens prompt and reply may have together; None if nobody knows."""
    without: str | None = None
    """Why the model's log-probabilities were not used, where they were asked for."""
    moved: bool | None = None
    """Whether any reply with an order in it is another than that of the passages as they were shown, or its reverse."""


class Asking(Service):
    """Asks a chat model, under limits of time, number and money. A subclass says what it is asked.

    Args:
        given: What the subclass was constructed with, but the key.
        api_key: The key, if there is one.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of its range, or neither a model nor an llm.
    """

    _price_form = '{"per_million_tokens": usd, "per_million_output_tokens": usd}'

    def __init__(self, given: Mapping[str, Any], *, api_key: str | None) -> None:
        model, llm = given["model"], given["llm"]
        if given["extra"] is not None:
            given = {**given, "extra": checked_extra(given["extra"])}
        if model is not None and not isinstance(model, str):
            raise TypeError(f"model must be a string, not {type(model).__name__}")
        if given["on_bad_reply"] not in self._on_bad_reply:
            raise ValueError(
                f"on_bad_reply must be {' or '.join(map(repr, self._on_bad_reply))}, not {given['on_bad_reply']!r}"
            )
        self._context = whole("context_tokens", given["context_tokens"], low=256)
        self.passage_tokens = _needed_whole("passage_tokens", given["passage_tokens"], low=16)
        self._max_output_tokens = _needed_whole("max_output_tokens", given["max_output_tokens"], low=16)
        self._lacks = frozenset(_checked_features(given["lacks"]))
        self._chat = self._chat_of(llm, model, given, api_key)
        self._lacks |= self._chat.lacks
        self._declared = self._lacks
        self.model = self._chat.model
        price = given["price"]
        self._rates = CHAT_PRICES.get(f"{self._chat.host}:{self.model}") if price is None else checked_chat_price(price)
        retries = given["max_retries"]
        self.tally = Tally(f"{self.name}:{self.model}")
        self._odd: int | None = 0  # how many first tokens were no answer; None once one was
        self.settled = False
        """Whether it is known what the model takes."""
        self.secrets = {} if llm is not None else {"api_key": cast("OpenAIChat", self._chat).key_variable}
        super().__init__(
            {**given, "max_retries": (0 if self._chat.retries else 2) if retries is None else retries},
            key=self._chat.key,
            identity=f"{self.model} {self._chat.key and self._chat.key.reveal()} {sorted((given['headers'] or {}).items())}",
            address=self._chat.address,
            price=self._rates,
            free=False,
        )
        self._given = dict(given)

    _on_bad_reply: ClassVar[tuple[str, str]]

    def _chat_of(self, llm: object, model: str | None, given: Mapping[str, Any], api_key: str | None) -> Chat:
        if llm is None:
            if model is None:
                raise ValueError(
                    f"{self.name!r} needs a language model: pass llm=, an object of LangChain's or LlamaIndex's or a function, or"
                    f" name one that an OpenAI-compatible service has, '{self.name}:<model>' with base_url="
                )
            return OpenAIChat(
                model,
                base_url=given["base_url"],
                api_key=api_key,
                headers=given["headers"],
                extra=given["extra"],
                connections=_needed_whole("max_concurrency", given["max_concurrency"]),
            )
        beside = {name: given[name] for name in ("model", "base_url", "headers", "extra")} | {"api_key": api_key}
        if names := [name for name, value in beside.items() if value is not None]:
            raise TypeError(f"{', '.join(names)} given together with llm=, which has its own")
        return chat_of(llm)

    @property
    def replies(self) -> Replies:
        """Return what became of the model's replies so far, over all calls."""
        return self.tally.replies

    def describe(self) -> dict[str, object]:
        """Return where it asks, what the model does not take, its price, its replies, what it has spent: nothing secret."""
        replies = self.replies
        return {
            **super().describe(),
            "lacks": sorted(self._lacks),
            "replies": {
                **{name: getattr(replies, name) for name in replies.__slots__},
                "repairs": dict(replies.repairs),
            },
        }

    async def aclose(self) -> None:
        """Close the connections, of all event loops; those of an `llm` are its owner's."""
        await self._chat.aclose()

    def __reduce__(self) -> tuple[object, ...]:
        if self._given["headers"]:
            raise TypeError(
                "headers may hold secrets, and a pickle holds none: pass the key by the environment instead"
            )
        if not isinstance(self._given["llm"], FunctionType | None):
            raise TypeError("an llm may hold a key, and a pickle holds none: make the backend where it is used")
        return super().__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if self._given["llm"] is None:
            return super().__deepcopy__(memo)
        make: Any = type(self)
        return cast("Self", make(**self._given))  # the model is the same, and holds its own key

    def _fingerprint(self, template: str, names: Sequence[str], parts: Sequence[str], *more: object) -> str:
        """Return name, model, address, the prompt's id, and a digest of the options and prompt parts that change a score."""
        names = [*names, "passage_tokens", "context_tokens", "max_output_tokens", "extra"]
        options = [(name, self._given[name]) for name in names]
        of = [
            options,
            self._chat.settings,
            sorted(self._declared),
            [version(name) for name in [*parts, "again"]],
            *more,
        ]
        digest = sha256(repr(of).encode()).hexdigest()[:12]
        return f"{self.name}:{self.model}@{self._address}:{template}:{digest}"

    @abstractmethod
    async def _asked(self, job: Job, query: str, texts: Sequence[str], top_n: int | None) -> Scores:
        """Return the scores; usage is added to them."""

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return loop.run(self._run(Job(blocking=True), query, texts, top_n))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return await self._run(Job(blocking=False), query, texts, top_n)

    async def _run(self, job: Job, query: str, texts: Sequence[str], top_n: int | None) -> Scores:
        try:
            with deadline(self._deadline_s):
                await self._ready(self._chat.prepare)
                scores = await self._asked(job, query, texts, top_n)
        except BackendError as error:
            error.usage = job.usage
            raise
        return replace(scores, usage=job.usage)

    async def answer(
        self,
        job: Job,
        question: Callable[[Collection[Feature], str], Question | None],
        read: Callable[[Reply], tuple[T, Sequence[str]]],
    ) -> T | None:
        """Return what the model answers, and None if it turns out to lack what the question needs.

        Args:
            job: The ranking.
            question: Returns the question for a model that lacks those features, or None where there is none for it; the second
                argument is what to add to the prompt.
            read: Returns the answer in a reply, and how it was mended.

        Raises:
            ReplyError: No answer, and none when it was asked again.
            BackendError: No reply.
        """
        problems, barred = list[str](), frozenset[Feature]()
        for last in (False, True):
            again = part("again").replace("{problem}", neutralised(problems[0])) if problems else ""
            reply = await self._reply(job, question, barred, again, set())
            if reply is None:
                return None
            try:
                answer, repairs = read(reply)
            except ReplyError as error:
                self.tally.failed()
                problems.append(_problem(reply, error))
                barred = frozenset({"schema"})  # an answer in another form, perhaps
                if last or reply.ended == "filter":  # which it would be again
                    break
            else:
                self.tally.answered({*repairs, *(["cut off"] if reply.ended == "length" else [])})
                job.answers += 1
                return answer
        at_first = f", at first: {problems[0]}" if problems[0] != problems[-1] else ""
        twice = f"; it was asked twice{at_first}" if last else ""
        raise ReplyError(f"{self.name}:{self.model}: {problems[-1]}{twice}")

    async def _reply(
        self,
        job: Job,
        question: Callable[[Collection[Feature], str], Question | None],
        barred: frozenset[Feature],
        again: str,
        doubted: set[Feature],
    ) -> Reply | None:
        """Return the reply to a question, from which is left out what the model does not take."""
        dropped, named = frozenset[Feature](), frozenset[Feature]()
        while True:
            asked = question(self._lacks | barred | dropped, again)
            if asked is None:
                self._note_lacks(named)
                doubted |= dropped - named  # guesses, that no reply has borne out
                return None
            reply = await self._sent(job, asked)
            if isinstance(reply, Reply):
                self._note_lacks(dropped)
                self.settled = True
                return reply
            blamed = reply.features & asked.wish.features
            named |= blamed
            dropped |= blamed or {next(feature for feature in FEATURES if feature in asked.wish.features)}

    async def _sent(self, job: Job, asked: Question) -> Reply | Unable:
        messages = [{"role": "user", "content": asked.prompt}]
        estimate = self._usage(asked, None, None, None)

        async def send() -> Reply | Unable:
            try:
                return await self._chat.ask(messages, asked.wish, blocking=job.blocking)
            except Unable as refusal:
                if asked.wish.features:
                    return refusal
                fault = refusal.fault
            raise fault

        def used(reply: Reply | Unable) -> Usage:
            if isinstance(reply, Unable):
                if reply.fault.billed:
                    return replace(estimate, estimated=True)
                return Usage(calls=int(reply.fault.sent))  # it was not read
            return self._usage(asked, reply.input_tokens, reply.output_tokens, reply.text)

        def spent(usage: Usage) -> None:
            job.usage += usage

        try:
            reply, _ = await self._policy.call(send, estimate=estimate, used=used, spent=spent)
        except ReplyError:  # a reply of which nothing could be read
            self.tally.failed()
            raise
        return reply

    def _usage(self, asked: Question, read: int | None, written: int | None, text: str | None) -> Usage:
        """Return what a request has used; what the reply does not tell is estimated."""
        estimated = read is None or written is None
        read = tokens_in(asked.prompt) if read is None else read
        if written is None:
            written = asked.answer_tokens if text is None else tokens_in(text)
        return Usage(
            calls=1, input_tokens=read, output_tokens=written, cost_usd=_cost(self._rates, read, written), estimated=estimated
        )  # fmt: skip

    def _note_lacks(self, features: Collection[Feature], why: str = "the request was refused with it") -> None:
        new = set(features) - self._lacks
        if new:
            self._lacks |= frozenset(new)
            logger.warning(
                "%s:%s is asked without %s from now on: %s", self.name, self.model, ", ".join(sorted(new)), why
            )

    async def likely_answer(
        self,
        job: Job,
        one_token: Callable[[Collection[Feature], str], Question | None],
        weigh: Callable[[Mapping[str, float]], T],
        in_words: Callable[[Collection[Feature], str], Question],
        read: Callable[[Reply], tuple[T, Sequence[str]]],
    ) -> tuple[T, bool]:
        """Return the answer in the log-probabilities of a first token, and True; else the one that is written, and False.

        Args:
            job: The ranking, which says why where it is False.
            one_token: As in `first_token_answer`, with `weigh`.
            weigh: Returns the answer in log-probabilities.
            in_words: As in `answer`, with `read`; there is always a question.
            read: Returns the answer in a reply.

        Raises:
            ReplyError: No answer, and none when it was asked again.
            BackendError: No reply.
        """
        doubted = set[Feature]()
        found = await self.first_token_answer(job, one_token, weigh, doubted)
        if found is not None:
            return found, True
        answer = await self.answer(job, in_words, read)
        assert answer is not None, "there is always a question"
        if "logprobs" in doubted and self._odd is not None:
            self._note_lacks({"logprobs"}, "the request was refused with it, and answered without")
        return answer, False

    async def first_token_answer(
        self,
        job: Job,
        question: Callable[[Collection[Feature], str], Question | None],
        read: Callable[[Mapping[str, float]], T],
        doubted: set[Feature],
    ) -> T | None:
        """Return the answer in the log-probabilities of the reply's first token; None where there is none, and `job` says why.

        Args:
            job: The ranking.
            question: As for `answer`, but that it returns None for a model without log-probabilities.
            read: Returns the answer in them, or raises `ReplyError`.
            doubted: Filled with what the requests may have been refused for, where they do not say for what.
        """
        reply = await self._reply(job, question, frozenset(), "", doubted)
        if reply is None:
            job.without = "the model's log-probabilities are not to be had"
            return None
        try:
            if reply.first_token is None:
                raise ReplyError("the replies hold no log-probabilities")
            answer = read(reply.first_token)
        except ReplyError as error:
            self.tally.failed()
            job.without = str(error)
            self._count_odd(job.without, sure=reply.first_token is None)
            return None
        self._odd = None
        self.tally.answered(())
        job.answers += 1
        return answer

    def _count_odd(self, why: str, *, sure: bool = False) -> None:
        """Note that a first token was no answer, and do without where none ever was."""
        if self._odd is not None:
            self._odd += 1
            if sure or self._odd >= _ODD_IN_A_ROW:
                self._note_lacks({"logprobs"}, why)

    def wish(
        self,
        job: Job,
        prompt: str,
        lacking: Collection[Feature],
        *,
        schema: Mapping[str, object] | None = None,
        one_token: bool = False,
    ) -> Wish:
        """Return what is wished of a reply, but for what the model lacks."""
        most = self._max_output_tokens
        if job.context is not None:  # some services refuse what might not fit
            most = min(most, max(int(job.context * _ROOM) - tokens_in(prompt), 16))
        return Wish(
            max_tokens=None if "max_tokens" in lacking else 1 if one_token else most,
            temperature=None if "temperature" in lacking else 0.0,
            seed=None if "seed" in lacking else _SEED,
            schema=None if "schema" in lacking else schema,
            top_logprobs=20 if one_token and "logprobs" not in lacking else 0,
        )

    async def room(self, job: Job, skeleton: str, *, reserved: int) -> int | None:
        """Return how many tokens passages may have together, beside the rest of the prompt and the reply; None if nobody knows.

        Raises:
            BackendError: None at all.
        """
        job.context = self._context
        if job.context is None:
            with suppress(TimeoutError):  # what is asked next says so
                async with asyncio.timeout(remaining_s()):
                    job.context = await self._chat.context_tokens()
        if job.context is None:
            return None
        room = int(job.context * _ROOM) - tokens_in(skeleton) - reserved
        if room < 1:
            raise BackendError(
                f"{self.name}:{self.model}: the query and the prompt have about {tokens_in(skeleton)} tokens, which leaves no"
                f" room for passages in a context of {job.context}: shorten the query"
            )
        return room


async def together(parts: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what they return; the first that fails ends the others, and is raised."""
    if len(parts) == 1:
        return [await parts[0]]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _problem(reply: Reply, error: ReplyError) -> str:
    if reply.ended == "filter":
        return "the reply was stopped by a content filter"
    if reply.ended == "refusal":
        return "the model refused to answer"
    if reply.ended == "length":
        return f"the reply was cut off before there was an answer (max_output_tokens): {error}"
    return str(error)


def out_of_budget(error: BaseException) -> bool:
    """Return whether an error says that a limit of the caller's own is used up: the deadline, calls, tokens, money."""
    if isinstance(error, BudgetError):
        return True
    left = remaining_s()
    if left is None or not isinstance(error, DeadlineError | RateLimitError):
        return False
    unsent = (
        error.usage is not None and not error.usage.calls
    )  # the rate allows none, or the queue is too long, before it
    return unsent or (isinstance(error, DeadlineError) and left < _SOON_S)


def shortened(texts: Sequence[str], tokens: int) -> tuple[list[str], list[bool]]:
    """Return the texts as they are shown to a model, neutralised and of at most that many tokens, and whether each was cut."""
    shown = [trimmed(neutralised(text), tokens) for text in texts]
    return [text for text, _ in shown], [cut for _, cut in shown]


def _cost(price: Price | None, read: int, written: int) -> float | None:
    if price is None:
        return None
    return (read * (price.per_million_tokens or 0.0) + written * (price.per_million_output_tokens or 0.0)) / 1e6


def _needed_whole(name: str, value: object, *, low: int = 1) -> int:
    number = whole(name, value, low=low)
    if number is None:
        raise TypeError(f"{name} must be a whole number, not None")
    return number


def _checked_features(lacks: object) -> Sequence[Feature]:
    if isinstance(lacks, str) or not isinstance(lacks, Collection):
        raise TypeError(f"lacks must be a list of {', '.join(FEATURES)}, not {type(lacks).__name__}")
    for feature in lacks:
        if feature not in FEATURES:
            raise ValueError(f"lacks holds {feature!r}; it knows {', '.join(FEATURES)}")
    return [feature for feature in FEATURES if feature in lacks]
