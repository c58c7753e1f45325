"""A language model that grades each text by itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

from rerankx.errors import BackendError, ReplyError
from rerankx.interface import Scale, Scores
from rerankx.llm.asking import Asking, Job, Question, out_of_budget, shortened, together
from rerankx.llm.chat import Feature, Reply
from rerankx.llm.passages import fenced_passage, fenced_query
from rerankx.llm.prompts import builtin, own, part
from rerankx.llm.replies import expected_grade, probability_of_yes, read_grade, read_yes_no

_HIGHEST = 4
_ANSWER_TOKENS = 40  # reserved: a grade, and a few words in spite of all
_Judged = tuple[float, str] | BackendError
"""Score and where it is from, or why there is none."""


class Judge(Asking):
    """Grades each text by asking a language model about it alone: one question per text.

        Reranker("judge", llm=ChatOpenAI(model="gpt-6-luna"))
        Reranker("judge:qwen3", base_url="http://localhost:8000/v1", grades="yes-no")

    The score is the grade that is to be expected by the log-probabilities of the model's one token, a number between the grades,
    where the model tells them; else it is the grade that it writes, and equal grades keep the order in which the texts came.
    `details` say which: {"grade_from": "log-probabilities"} or {"grade_from": "text"}.

    Where time or a budget runs out, the texts that were not judged are not scored, with `degraded="deadline"`.

    Args:
        model: The model, as the service at `base_url` names it; not with `llm`.
        llm: A LangChain chat model or another Runnable, a LlamaIndex LLM, or a function of a list of {"role", "content"} that
            returns the reply, sync or async. It keeps its own settings, retries and callbacks.
        base_url: Address of an OpenAI-compatible service; None reads OPENAI_BASE_URL, else OpenAI's own.
        api_key: The key; None reads OPENAI_API_KEY for those two, and RERANKX_LLM_API_KEY for another `base_url`.
        headers: More headers. They may hold secrets: they are in no message, and what has them does not pickle.
        extra: More fields of the request's body, such as {"reasoning_effort": "minimal"}.
        grades: "0-4", scores in [0, 4]; or "yes-no", the probability of yes, in [0, 1].
        criteria: What the grades mean, in place of the text that comes with the package.
        prompt: A template of your own, with {query}, {passage} and {criteria}.
        passage_tokens: Of a longer passage only the beginning is shown; it is counted in `truncated`.
        context_tokens: As in `Listwise`.
        max_output_tokens: As in `Listwise`.
        lacks: As in `Listwise`.
        on_bad_reply: What becomes of a text where the model's answer is no grade, twice: "raise" a `ReplyError`, or leave it
            "unscored", with `degraded="incomplete"`.
        timeout_s: Seconds for one request, to its last byte.
        deadline_s: Seconds for one ranking, with all questions, tries and waits; None = no bound.
        max_retries: As in `Listwise`.
        requests_per_minute: As in `Listwise`.
        max_concurrency: Texts judged at a time, over all threads and event loops.
        failure_threshold: As in `Listwise`.
        recovery_s: As in `Listwise`.
        max_calls: As in `Listwise`.
        max_input_tokens: As in `Listwise`.
        budget_usd: As in `Listwise`.
        price: As in `Listwise`.

    Raises:
        AuthenticationError: OpenAI is to be asked, and there is no key.
        TypeError: An argument of the wrong type, or something beside `llm` that it has itself.
        ValueError: An argument out of its range, or neither a model nor an llm.

    Source: Zhuang et al., NAACL 2024, arXiv:2310.14122 (RG-S, expected relevance).
    """

    name = "judge"
    pointwise = True
    _on_bad_reply: ClassVar[tuple[str, str]] = ("raise", "unscored")

    def __init__(
        self,
        model: str | None = None,
        *,
        llm: object = None,
        base_url: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        grades: Literal["0-4", "yes-no"] = "0-4",
        criteria: str | None = None,
        prompt: str | None = None,
        passage_tokens: int = 1000,
        context_tokens: int | None = None,
        max_output_tokens: int = 4096,
        lacks: Collection[str] = (),
        on_bad_reply: Literal["raise", "unscored"] = "raise",
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
        if grades not in ("0-4", "yes-no"):
            raise ValueError(f"grades must be '0-4' or 'yes-no', not {str(grades)[:40]!r}")
        if criteria is not None and not (isinstance(criteria, str) and criteria.strip()):
            raise ValueError("criteria must be a text that says what the grades mean")
        self._yes_no = grades == "yes-no"
        self.scale = Scale.PROBABILITY if self._yes_no else Scale.similarity(0, _HIGHEST)
        ours = builtin("judge-yes-no" if self._yes_no else "judge")
        self._template = ours if prompt is None else own(prompt, needs=("query", "passage", "criteria"))
        self._criteria = criteria or part("criteria-yes-no" if self._yes_no else "criteria")
        super().__init__(given, api_key=api_key)

    @property
    def fingerprint(self) -> str:
        """Return name, model, address, the prompt's id, and a digest of the options that change a score."""
        return self._fingerprint(self._template.id, ("grades",), (), self._criteria)

    async def _asked(self, job: Job, query: str, texts: Sequence[str], top_n: int | None) -> Scores:
        query = fenced_query(query)
        room = await self.room(job, self._prompt(query, "") + part("again"), reserved=_ANSWER_TOKENS)
        if room is not None:
            room = max(room // self._template.text.count("{passage}"), 1)
        shown, cut = shortened(texts, self.passage_tokens if room is None else min(room, self.passage_tokens))
        judged: list[_Judged] = []
        if not self.settled:  # so that it is found out once, and not by all at a time, what the model does not take
            judged.append(await self._judged(job, query, shown[0]))
        judged += await together([self._judged(job, query, text) for text in shown[len(judged) :]])
        errors = [one for one in judged if isinstance(one, BackendError)]
        out_of = [error for error in errors if out_of_budget(error)]
        if out_of and not job.answers:
            raise out_of[0]
        found = [None if isinstance(one, BackendError) else one for one in judged]
        return Scores(
            [None if one is None else one[0] for one in found],
            details=[None if one is None else {"grade_from": one[1]} for one in found],
            cut=cut,
            degraded="deadline" if out_of else "incomplete" if errors else None,
        )

    async def _judged(self, job: Job, query: str, text: str) -> _Judged:
        """Return score and source; or an error that leaves the text unscored, and not the whole ranking."""
        prompt = self._prompt(query, text)

        def one_token(lacking: Collection[Feature], again: str) -> Question | None:
            if "logprobs" in lacking:
                return None
            return Question(prompt, self.wish(job, prompt, lacking, one_token=True), 1)

        def in_words(lacking: Collection[Feature], again: str) -> Question:
            return Question(prompt + again, self.wish(job, prompt + again, lacking), 1)

        try:
            score, weighed = await self.likely_answer(job, one_token, self._expected, in_words, self._written)
            return score, "log-probabilities" if weighed else "text"
        except ReplyError as error:
            if self._given["on_bad_reply"] == "raise":
                raise
            return error
        except BackendError as error:
            if not out_of_budget(error):
                raise
            return error

    def _expected(self, found: Mapping[str, float]) -> float:
        score = probability_of_yes(found) if self._yes_no else expected_grade(found, 0, _HIGHEST)
        if score is None:
            raise ReplyError("the first token is no grade")
        return score

    def _written(self, reply: Reply) -> tuple[float, Sequence[str]]:
        if self._yes_no:
            yes, repairs = read_yes_no(reply.text)
            return float(yes), repairs
        grade, repairs = read_grade(reply.text, 0, _HIGHEST)
        return float(grade), repairs

    def _prompt(self, query: str, text: str) -> str:
        return self._template.filled(query=query, passage=fenced_passage(text), criteria=self._criteria)
