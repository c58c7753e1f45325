"""`Asking`: what stands between a backend's question and a model's answer, looked at from within."""

import asyncio
import math

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

import scripted
from scripted import kept, warnings_in

from rerankx.backends.listwise import Listwise
from rerankx.errors import BackendError, BudgetError, DeadlineError, RateLimitError, ReplyError
from rerankx.interface import Usage, deadline
from rerankx.llm.asking import FEATURES, Job, Question, out_of_budget, shortened, together
from rerankx.llm.chat import Chat, Reply, Unable
from rerankx.llm.passages import tokens_in
from rerankx.network.faults import Fault


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    scripted.alone(monkeypatch)
    with scripted.closed():
        yield


class Scripted(Chat):
    """A bridge to no model: it replies in turn what it is given, or raises it."""

    model, address = "scripted", "scripted:"

    def __init__(self, *replies, context=None, lacks=frozenset()):
        self.replies, self.context, self.lacks = list(replies), context, frozenset(lacks)
        self.asked = []

    async def context_tokens(self):
        return self.context

    async def ask(self, messages, wish, *, blocking):
        self.asked.append((messages[0]["content"], wish, blocking))
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def wished(self):
        return [wish.features for _, wish, _ in self.asked]


def unable(*features):
    return Unable(Fault(BackendError, "HTTP 400", answered=True), frozenset(features))


def asking(*replies, context=None, lacking=(), **options) -> Listwise:
    return kept(Listwise(llm=Scripted(*replies, context=context, lacks=lacking), **options))


def read(reply):
    """Return the reply's number, which every reply but a bad one has."""
    if not reply.text.isdecimal():
        raise ReplyError("the answer is no number")
    return int(reply.text), ()


def question_of(backend, job, needed=None):
    def question(lacking, again):
        if needed in lacking:
            return None
        prompt = "How many?" + again
        return Question(prompt, backend.wish(job, prompt, lacking, schema={"type": "integer"}), 1)

    return question


def answer(backend, job=None, needed=None):
    job = job or Job(blocking=False)
    return asyncio.run(backend.answer(job, question_of(backend, job, needed), read))


class TestAnswer:
    def test_is_what_is_read_of_the_reply(self):
        backend, job = asking(Reply("7", input_tokens=10, output_tokens=2)), Job(blocking=False)
        assert answer(backend, job) == 7
        assert (job.answers, job.usage) == (1, Usage(1, 10, 2, cost_usd=None))
        assert backend._chat.wished == [{"seed", "schema", "temperature", "max_tokens"}]

    def test_is_asked_for_again_with_what_was_wrong_and_without_a_schema(self):
        backend, job = asking(Reply("many"), Reply("7")), Job(blocking=False)
        assert answer(backend, job) == 7
        (first, _, _), (second, wish, _) = backend._chat.asked
        assert second.startswith(first)
        assert "your answer could not be used: the answer is no number." in second
        assert wish.schema is None
        assert job.answers == 1

    def test_is_asked_for_twice_and_no_more(self):
        backend, job = asking(Reply("many")), Job(blocking=False)
        with pytest.raises(ReplyError, match=r"^listwise:scripted: the answer is no number; it was asked twice$"):
            answer(backend, job)
        assert (len(backend._chat.asked), job.answers, backend.replies.failed) == (2, 0, 2)

    def test_says_what_was_wrong_both_times(self):
        backend = asking(Reply("many"), Reply("", ended="refusal"))
        both = "the model refused to answer; it was asked twice, at first: the answer is no number$"
        with pytest.raises(ReplyError, match=both):
            answer(backend)

    def test_is_none_where_the_model_is_known_to_lack_what_is_needed(self):
        backend = asking(Reply("7"), lacking={"seed"})
        assert answer(backend, needed="seed") is None
        assert backend._chat.asked == []

    def test_is_none_where_the_model_turns_out_to_lack_what_is_needed(self, caplog):
        backend = asking(unable("seed"), Reply("7"))
        assert answer(backend, needed="seed") is None
        assert len(backend._chat.asked) == 1
        assert len(warnings_in(caplog)) == 1

    def test_does_without_whatever_a_refusal_names_at_once(self):
        backend = asking(unable("temperature", "seed"), Reply("7"))
        assert answer(backend) == 7
        assert backend._chat.wished[1] == {"schema", "max_tokens"}

    def test_does_without_one_at_a_time_where_a_refusal_names_none(self):
        backend = asking(unable(), unable(), Reply("7"))
        assert answer(backend) == 7
        assert backend._chat.wished[1:] == [
            {"schema", "temperature", "max_tokens"},
            {"temperature", "max_tokens"},
        ]

    def test_is_not_held_up_by_a_refusal_that_names_what_was_not_wished(self):
        backend = asking(unable("logprobs"), Reply("7"))
        assert answer(backend) == 7
        assert backend._chat.wished[1] == {"schema", "temperature", "max_tokens"}

    def test_ends_where_there_is_nothing_left_to_do_without(self):
        backend = asking(unable())
        with pytest.raises(BackendError, match="HTTP 400"):
            answer(backend)
        assert [len(wished) for wished in backend._chat.wished] == [4, 3, 2, 1, 0]

    def test_is_settled_by_the_first_reply_and_not_by_a_refusal(self):
        backend = asking(unable())
        with pytest.raises(BackendError):
            answer(backend)
        assert not backend.settled
        backend = asking(Reply("many"), Reply("7"))
        answer(backend)
        assert backend.settled

    @pytest.mark.parametrize("blocking", [True, False])
    def test_tells_the_bridge_how_the_caller_calls(self, blocking):
        backend = asking(Reply("7"))
        answer(backend, Job(blocking=blocking))
        assert [how for _, _, how in backend._chat.asked] == [blocking]

    def test_that_ended_at_a_limit_is_counted_as_cut_off(self):
        backend = asking(Reply("7", ended="length"))
        answer(backend)
        assert backend.replies.repairs == {"cut off": 1}

    def test_costs_what_is_told_and_else_an_estimate(self):
        price = {"per_million_tokens": 2.0, "per_million_output_tokens": 8.0}
        backend, job = asking(Reply("7", input_tokens=1000), price=price), Job(blocking=False)
        answer(backend, job)
        assert job.usage.cost_usd == pytest.approx((1000 * 2 + tokens_in("7") * 8) / 1e6)
        assert job.usage.estimated


def first_token(backend, job, found=math.fsum):
    def question(lacking, again):
        if "logprobs" in lacking:
            return None
        return Question("Which?", backend.wish(job, "Which?", lacking, one_token=True), 1)

    return asyncio.run(backend.first_token_answer(job, question, lambda told: found(told.values()), set()))


class TestFingerprint:
    def test_changes_with_the_settings_of_the_model_and_does_not_show_them(self):
        fingerprints = set()
        for settings in ("", "temperature 0.5", "temperature 0.7"):
            chat = Scripted(Reply("7"))
            chat.settings = settings
            fingerprints.add(kept(Listwise(llm=chat)).fingerprint)
        assert len(fingerprints) == 3
        assert "temperature" not in "".join(fingerprints)


class TestFirstTokenAnswer:
    def test_is_what_is_read_of_the_log_probabilities(self):
        backend, job = asking(Reply("A", first_token={"A": -1.0, "B": -2.0})), Job(blocking=False)
        assert first_token(backend, job) == -3.0
        assert (job.without, job.answers, backend.replies.parsed) == (None, 1, 1)
        (_, wish, _) = backend._chat.asked[0]
        assert (wish.max_tokens, wish.top_logprobs, wish.schema) == (1, 20, None)

    def test_of_a_model_that_is_known_to_tell_none_is_not_asked_for(self):
        backend, job = asking(Reply("A"), lacking={"logprobs"}), Job(blocking=False)
        assert first_token(backend, job) is None
        assert job.without == "the model's log-probabilities are not to be had"
        assert backend._chat.asked == []

    def test_that_never_comes_is_not_asked_for_again(self, caplog):
        backend, job = asking(Reply("A")), Job(blocking=False)
        assert [first_token(backend, job), first_token(backend, job)] == [None, None]
        assert len(backend._chat.asked) == 1
        assert len(warnings_in(caplog)) == 1

    def test_that_came_once_is_asked_for_again(self, caplog):
        told = Reply("A", first_token={"A": -1.0})
        backend, job = asking(told, Reply("A"), told), Job(blocking=False)
        assert [first_token(backend, job) for _ in range(3)] == [-1.0, None, -1.0]
        assert job.without == "the replies hold no log-probabilities"
        assert (job.answers, warnings_in(caplog)) == (2, [])

    def test_that_cannot_be_read_says_why(self):
        def unreadable(values):
            raise ReplyError("the first token is no letter")

        backend, job = asking(Reply("A", first_token={"A": -1.0})), Job(blocking=False)
        assert first_token(backend, job, unreadable) is None
        assert (job.without, job.answers, backend.replies.failed) == ("the first token is no letter", 0, 1)


def room(backend, skeleton, reserved, job=None):
    return asyncio.run(backend.room(job or Job(blocking=False), skeleton, reserved=reserved))


class TestRoom:
    def test_is_nine_tenths_of_the_context_without_the_rest_of_the_prompt(self):
        assert room(asking(Reply(""), context=1000), "word" * 100, 60) == 900 - tokens_in("word" * 100) - 60

    def test_is_unknown_where_nobody_knows_the_context(self):
        job = Job(blocking=False)
        assert room(asking(Reply("")), "word", 60, job) is None
        assert job.context is None

    def test_is_of_the_context_that_is_told_rather_than_the_models(self):
        job = Job(blocking=False)
        assert room(asking(Reply(""), context=9000, context_tokens=1000), "", 0, job) == 900
        assert job.context == 1000

    @pytest.mark.parametrize(("length", "enough"), [(899, True), (900, False), (5000, False)])
    def test_of_none_at_all_is_an_error(self, length, enough):
        backend, skeleton = asking(Reply(""), context=1000), "abcd" * length
        if enough:
            assert room(backend, skeleton, 0) == 1
            return
        with pytest.raises(BackendError, match=f"about {length} tokens.* context of 1000: shorten the query"):
            room(backend, skeleton, 0)


class TestWish:
    def test_is_for_what_the_reply_may_have(self):
        backend = asking(Reply(""), max_output_tokens=500)
        wish = backend.wish(Job(blocking=False), "prompt", (), schema={"type": "object"})
        assert (wish.max_tokens, wish.temperature, wish.seed, wish.schema) == (500, 0.0, 7, {"type": "object"})
        assert wish.top_logprobs == 0

    @pytest.mark.parametrize(("context", "most"), [(None, 500), (10_000, 500), (300, 170), (110, 16), (50, 16)])
    def test_is_for_no_more_than_fits_beside_the_prompt(self, context, most):
        backend = asking(Reply(""), max_output_tokens=500)
        assert backend.wish(Job(blocking=False, context=context), "abcd" * 100, ()).max_tokens == most

    @pytest.mark.parametrize("feature", FEATURES)
    def test_is_not_for_what_is_lacking(self, feature):
        backend = asking(Reply(""))
        wish = backend.wish(Job(blocking=False), "prompt", [feature], schema={}, one_token=True)
        assert wish.features == set(FEATURES) - {feature}


class TestTogether:
    def test_returns_what_they_return_in_their_order(self):
        async def after(turns, value):
            for _ in range(turns):
                await asyncio.sleep(0)
            return value

        assert asyncio.run(together([after(5, "a"), after(0, "b"), after(2, "c")])) == ["a", "b", "c"]
        assert asyncio.run(together([after(0, "a")])) == ["a"]
        assert asyncio.run(together([])) == []

    def test_raises_what_the_first_raises_and_ends_the_others_before(self):
        ended = []

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(True)

        async def fail():
            await asyncio.sleep(0)
            raise ReplyError("no")

        async def all_of_them():
            with pytest.raises(ReplyError, match="no"):
                await together([forever(), fail(), forever()])
            return list(ended)

        assert asyncio.run(all_of_them()) == [True, True]

    def test_ends_all_of_them_with_who_waits(self):
        ended = []

        async def forever():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        async def give_up():
            task = asyncio.ensure_future(together([forever(), forever()]))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return len(ended)

        assert asyncio.run(give_up()) == 2


class TestShortened:
    def test_are_neutralised_and_cut_and_counted(self):
        texts, cut = shortened(["a\x00b </passage>", "word " * 100, "short"], 16)
        assert texts[0] == "a b (/passage)"
        assert texts[1] == ("word " * 100)[: len(texts[1])]
        assert (tokens_in(texts[1]) <= 16, texts[2], cut) == (True, "short", [False, True, False])

    def test_of_none_are_none(self):
        assert shortened([], 16) == ([], [])

    def test_is_no_text_that_only_what_is_dropped_makes_long(self):
        assert shortened(["word" + "\u200b" * 500], 16) == (["word"], [False])


class TestOutOfBudget:
    def test_is_a_limit_of_the_callers(self):
        assert out_of_budget(BudgetError("max_calls=1 are used up"))

    @pytest.mark.parametrize(
        "error", [RateLimitError("429"), BackendError("503"), ReplyError("no"), ValueError("x")], ids=repr
    )
    def test_is_no_other_error(self, error):
        with deadline(60):
            assert not out_of_budget(error)

    def test_is_a_deadline_that_has_passed(self):
        with deadline(-1.0):
            assert out_of_budget(DeadlineError("the deadline had passed"))

    def test_is_no_request_that_took_too_long_where_there_is_no_deadline(self):
        assert not out_of_budget(DeadlineError("no answer within 1 s"))

    def test_is_no_request_that_took_too_long_before_the_deadline(self):
        with deadline(600):
            assert not out_of_budget(DeadlineError("no answer within 1 s"))
