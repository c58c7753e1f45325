"""One HTTP client per event loop, what bounds it, and what a server's words are before anybody reads them."""

import asyncio
import gc
import json
import pickle
import subprocess
import sys
import threading
import time
import warnings
from email.utils import formatdate
from pathlib import Path

import certifi
import httpx
import pytest
from backend_stage import KEY, held_in, pieces, told
from fault_stage import body, good, redirect, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import AuthenticationError, BackendError, DeadlineError, RateLimitError, ReplyError
from rerankx.engines.once import Once
from rerankx.network import client as client_module
from rerankx.network.client import (
    PerLoop,
    Secret,
    TooLargeError,
    TooMuchError,
    checked_base_url,
    http_client,
    joined,
    tls,
)
from rerankx.network.faults import Fault, blotted, of_exception, of_status
from rerankx.network.remote import checked_results


class Client:
    """Says in which loop it was made, and whether it was closed there."""

    def __init__(self):
        self.made_in, self.closed_in = asyncio.get_running_loop(), None

    async def aclose(self):
        assert self.closed_in is None, "closed twice"
        self.closed_in = asyncio.get_running_loop()


def per_loop():
    made = []

    def make():
        made.append(Client())
        return made[-1]

    return PerLoop(make, Client.aclose, prepare=lambda: None), made


class InAThread:
    """An event loop that runs in a thread of its own, until the block ends; then it is shut down properly."""

    def __enter__(self):
        ready = threading.Event()

        async def main():
            self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._end.wait()

        self._thread = threading.Thread(target=lambda: asyncio.run(main()))
        self._thread.start()
        assert ready.wait(30)
        return self

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def __exit__(self, *_error):
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()


class TestPerLoop:
    def test_same_loop_has_the_same_client(self):
        clients, made = per_loop()

        async def main():
            return {id(client) for client in await asyncio.gather(*(clients.get() for _ in range(20)))}

        assert len(asyncio.run(main())) == len(made) == 1

    def test_another_loop_has_another(self):
        clients, made = per_loop()
        asyncio.run(clients.get())
        asyncio.run(clients.get())
        assert len(made) == 2
        assert made[0].made_in is not made[1].made_in

    def test_is_closed_with_its_loop(self):
        clients, made = per_loop()
        asyncio.run(clients.get())
        assert made[0].closed_in is made[0].made_in
        assert clients._open == {}

    def test_is_closed_with_its_loop_after_an_error(self):
        clients, made = per_loop()

        async def main():
            await clients.get()
            raise KeyError

        with pytest.raises(KeyError):
            asyncio.run(main())
        assert made[0].closed_in is made[0].made_in

    def test_loop_that_was_closed_without_a_word_is_forgotten(self):
        clients, made = per_loop()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(clients.get())
        loop.close()  # no shutdown_asyncgens
        asyncio.run(clients.get())
        assert clients._open == {}
        assert made[0].closed_in is None

    def test_can_be_closed_and_asked_again(self):
        clients, made = per_loop()

        async def main():
            await clients.get()
            await clients.aclose()
            closed = made[0].closed_in
            await clients.get()
            return closed

        assert asyncio.run(main()) is made[0].made_in
        assert len(made) == 2

    def test_closing_twice_or_before_use_does_nothing(self):
        clients, made = per_loop()

        async def main():
            await clients.aclose()
            await clients.get()
            await clients.aclose()
            await clients.aclose()

        asyncio.run(main())
        assert len(made) == 1

    def test_closing_from_another_loop_closes_where_it_was_made(self):
        clients, made = per_loop()
        with InAThread() as other:
            other.run(clients.get())
            asyncio.run(clients.aclose())
            assert made[0].closed_in is other.loop
            assert clients._open == {}

    def test_closing_closes_all_of_them(self):
        clients, made = per_loop()
        with InAThread() as one, InAThread() as two:
            one.run(clients.get())
            two.run(clients.get())

            async def main():
                await clients.get()
                await clients.aclose()

            asyncio.run(main())
            assert [client.closed_in for client in made] == [client.made_in for client in made]

    def test_what_takes_long_is_prepared_once_and_outside_of_the_loop(self):
        threads = []
        clients = PerLoop(Client, Client.aclose, prepare=lambda: threads.append(threading.current_thread()))
        asyncio.run(clients.get())
        asyncio.run(clients.get())
        assert len(threads) == 1
        assert threads[0] is not threading.current_thread()

    def test_error_of_preparing_is_raised_and_leaves_nothing(self):
        answers = iter([OSError("no certificates"), None])

        def prepare():
            if error := next(answers):
                raise error

        clients = PerLoop(Client, Client.aclose, prepare=prepare)

        async def main():
            with pytest.raises(OSError, match="no certificates"):
                await clients.get()
            return await clients.get()

        assert isinstance(asyncio.run(main()), Client)

    def test_error_of_making_one_is_raised_and_leaves_nothing(self):
        answers = iter([OSError("no certificates"), "client"])

        def make():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        async def close(_):
            pass

        clients = PerLoop(make, close, prepare=lambda: None)

        async def main():
            with pytest.raises(OSError, match="no certificates"):
                await clients.get()
            return await clients.get()

        assert asyncio.run(main()) == "client"

    def test_one_that_nobody_keeps_is_closed_in_its_loop(self):
        clients, made = per_loop()

        async def main():
            nonlocal clients
            await clients.get()
            clients = None
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return made[0].closed_in

        assert asyncio.run(main()) is made[0].made_in

    def test_client_of_a_loop_that_rests_is_closed_when_the_loop_goes_on(self):
        clients, made = per_loop()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(clients.get())
        asyncio.run(clients.aclose())  # while the loop above stands still
        gc.collect()
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        assert made[0].closed_in is loop

    def test_another_thread_may_come_or_go_while_closed_loops_are_looked_for(self):
        clients, _ = per_loop()

        class Loop:
            def is_closed(self):
                clients._open[Loop()] = None  # what another thread does just then
                return False

        clients._open[Loop()] = None
        try:
            asyncio.run(clients.get())
        finally:
            clients._open.clear()

    def test_many_threads_with_loops_at_once(self):
        clients, made = per_loop()
        errors = []

        def work():
            try:
                for _ in range(15):
                    asyncio.run(clients.get())
            except Exception as error:
                errors.append(error)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(before)
        assert errors == []
        assert all(client.closed_in is client.made_in for client in made)
        assert len(made) == 120

    @pytest.mark.filterwarnings("error")
    def test_httpx_client_is_closed_without_a_warning(self, stage):
        url = stage.address()
        clients = PerLoop(lambda: http_client(2), httpx.AsyncClient.aclose, prepare=tls)

        async def main():
            return await (await clients.get()).post(
                url + "/v2/rerank", json={"query": "q", "documents": ["a"], "top_n": 1, "model": "m"}
            )

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asyncio.run(main()).status_code == 200
            gc.collect()
        wait_until(lambda: stage.connections_open(url) == 0, "the end of the connection")


def posted(url, **options):
    async def main():
        async with http_client(2) as client:
            return await client.post(
                url + "/v2/rerank", json={"query": "q", "documents": ["a"], "top_n": 1, "model": "m"}, **options
            )

    return asyncio.run(main())


class TestHttpClient:
    def test_asks_for_no_compression(self, stage):
        url = stage.address()
        posted(url)
        assert stage.requests(url)[0].headers["accept-encoding"] == "identity"

    def test_follows_no_redirect(self, stage):
        strays = stage.strays
        assert posted(stage.address(redirect())).status_code == 307
        assert stage.strays == strays

    def test_verifies_certificates(self):
        async def main():
            async with http_client(1) as client:
                context = client._transport._pool._ssl_context
                return context.check_hostname, context.verify_mode.name

        assert asyncio.run(main()) == (True, "CERT_REQUIRED")

    def test_goes_through_the_proxy_of_the_environment(self, stage, monkeypatch):
        url = stage.address()
        monkeypatch.setenv("HTTP_PROXY", stage.origin)
        monkeypatch.setenv("NO_PROXY", "")
        assert posted(url.replace("127.0.0.1", "rerank.invalid")).status_code == 200
        assert stage.requests(url)[0].target.startswith("http://rerank.invalid")

    def test_reply_at_the_bound_is_read(self, stage, monkeypatch):
        monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 1000)
        assert len(posted(stage.address(body(b"x" * 1000))).content) == 1000

    def test_reply_above_the_bound_is_not(self, stage, monkeypatch):
        monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 1000)
        with pytest.raises(TooMuchError, match="the reply has more than"):
            posted(stage.address(body(b"x" * 1001)))

    def test_reply_in_pieces_above_the_bound_is_not(self, stage, monkeypatch):
        monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 1000)

        async def behave(exchange):
            await exchange.head(200, Transfer_Encoding="chunked")
            for _ in range(11):
                await exchange.write(b"64\r\n" + b"x" * 100 + b"\r\n")
            await exchange.write(b"0\r\n\r\n")

        with pytest.raises(TooMuchError, match="the reply has more than"):
            posted(stage.address(behave))

    @pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd"])
    def test_compressed_reply_is_not(self, stage, encoding):
        with pytest.raises(TooMuchError, match="compressed"):
            posted(stage.address(body(b"{}", Content_Encoding=encoding)))

    @pytest.mark.parametrize(
        "encoding",
        [
            "identity",
            pytest.param("Identity"),
        ],
    )
    def test_reply_that_says_it_is_not_compressed_is_read(self, stage, encoding):
        assert posted(stage.address(body(b"{}", Content_Encoding=encoding))).json() == {}

    def test_request_above_the_bound_is_not_sent(self, stage, monkeypatch):
        monkeypatch.setattr(client_module, "MAX_REQUEST_BYTES", 20)
        url = stage.address()
        with pytest.raises(TooLargeError, match="shorten the texts"):
            posted(url)
        assert stage.requests(url) == []

    def test_connection_of_a_reply_that_is_too_long_is_given_up(self, stage, monkeypatch):
        monkeypatch.setattr(client_module, "MAX_REPLY_BYTES", 1000)
        url = stage.address(body(b"x" * 1001), good())

        async def main():
            async with http_client(1) as client:
                request = {"query": "q", "documents": ["a"], "top_n": 1, "model": "m"}
                with pytest.raises(TooMuchError):
                    await client.post(url + "/v2/rerank", json=request)
                return await client.post(url + "/v2/rerank", json=request)

        assert asyncio.run(main()).status_code == 200

    def test_keeps_no_cookies(self, stage):
        url = stage.address(body(b"{}", Set_Cookie="who=someone; Path=/"))

        async def main():
            async with http_client(1) as client:
                request = {"query": "q", "documents": ["a"], "top_n": 1, "model": "m"}
                await client.post(url + "/v2/rerank", json=request)
                await client.post(url + "/v2/rerank", json=request)

        asyncio.run(main())
        assert "cookie" not in stage.requests(url)[1].headers


class TestSecret:
    def test_shows_itself_only_when_asked(self):
        secret = Secret(KEY)
        assert secret.reveal() == KEY
        assert held_in(f"{secret} {secret!r} {[secret]} {vars(type(secret))}") is None

    def test_does_not_pickle(self):
        with pytest.raises(TypeError, match="a secret is not pickled"):
            pickle.dumps(Secret(KEY))


class TestBaseUrl:
    @settings(deadline=None)
    @given(st.text(max_size=30))
    def test_is_an_address_or_an_error_of_the_two_kinds(self, text):
        try:
            url = checked_base_url(text, who="x")
        except ValueError:
            return
        assert url.lower().lstrip().startswith(("http://", "https://"))
        assert "@" not in url.partition("//")[2].partition("/")[0]

    @settings(deadline=None)
    @given(
        st.sampled_from(["http", "https"]),
        st.from_regex(r"[a-z0-9.-]{1,20}(:[0-9]{1,4})?(/[a-z0-9]{1,5}){0,3}/{0,3}", fullmatch=True),
    )
    def test_loses_the_slashes_at_its_end_and_nothing_else(self, scheme, rest):
        assert checked_base_url(f"{scheme}://{rest}", who="x") == f"{scheme}://{rest}".rstrip("/")


WORDS = st.text("abcdefgh ,.", max_size=60)
SECRETS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", min_size=6, max_size=60)
TEXTS = st.text('XYZÄß日"\\\n 𝄞', min_size=3, max_size=300).map(str.strip).filter(lambda text: len(text) > 2)


class TestBlotted:
    @settings(deadline=None)
    @given(SECRETS, WORDS, WORDS)
    def test_holds_no_run_of_a_secret(self, secret, before, after):
        shown = blotted(f"{before} {secret} {after} {secret}", secrets=[secret], texts=[])
        elsewhere = f"{before} {after}"
        assert not any(run in shown for run in pieces(secret, 6) if run not in elsewhere)

    @settings(deadline=None)
    @given(TEXTS, WORDS, st.sampled_from([str, json.dumps, repr]))
    def test_holds_no_run_of_a_text(self, text, before, quoted):
        shown = blotted(json.dumps({"message": f"{before}: {quoted(text)}", "input": [text]}), secrets=[], texts=[text])
        squeezed = " ".join(text.split())
        assert not any(run in shown for run in pieces(squeezed, 12) if run not in before)
        assert len(shown) <= 200

    @settings(deadline=None)
    @given(TEXTS, st.lists(TEXTS, max_size=4), st.data())
    def test_holds_no_whole_text_among_others(self, text, others, data):
        texts = data.draw(st.permutations([text, *others]))
        assert " ".join(text.split()) not in blotted(f"bad: {text}", secrets=[], texts=texts)

    @pytest.mark.parametrize("secret", ["qx7", "s3cr", "k-042"])
    def test_holds_no_short_secret(self, secret):
        assert secret not in blotted(f"wrong key {secret}", secrets=[secret], texts=[])

    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=[]), max_size=400), st.lists(st.text(max_size=20), max_size=3))
    def test_is_one_line_of_at_most_200_letters_that_can_be_shown(self, words, texts):
        shown = blotted(words, secrets=[], texts=texts)
        assert len(shown) <= 200
        assert shown == " ".join(shown.split())
        shown.encode()

    @settings(deadline=None)
    @given(
        st.text(min_size=20, max_size=60, alphabet="abcdefXYZ0123456789-_").filter(
            lambda s: any(c.isdigit() for c in s)
        )
    )
    def test_holds_nothing_that_may_be_a_key_of_somebody_elses(self, opaque):
        assert not any(piece in blotted(f"wrong key {opaque}.", secrets=[], texts=[]) for piece in pieces(opaque, 12))

    def test_keeps_the_words_that_help(self):
        words = "model 'rerank-v3.5' not found, did you mean 'rerank-v4.0-pro'?"
        assert blotted(words, secrets=[KEY], texts=["a text"]) == words

    def test_short_texts_do_not_blot_everything(self):
        assert blotted("a bad thing", secrets=[], texts=["a", "ba", " t "]) == "a bad thing"

    TEXT = " ".join(f"word{i}" for i in range(60))

    def test_text_quoted_whole_is_left_out(self):
        assert blotted(f"bad input: {self.TEXT}!", secrets=[], texts=[self.TEXT]) == "bad input: …!"

    @pytest.mark.parametrize("letters", [30, 80, 180, 300])
    def test_text_quoted_in_part_is_left_out(self, letters):
        shown = blotted(f"bad input: {self.TEXT[:letters]}...", secrets=[], texts=[self.TEXT])
        assert not any(piece in shown for piece in pieces(self.TEXT[:letters], 20))

    def test_long_text_quoted_whole_is_left_out(self):
        text = " ".join(f"word{i}" for i in range(3000))
        shown = blotted(f"bad input: {text}", secrets=[], texts=[text])
        assert not any(piece in shown for piece in pieces(text[:500], 20))

    @pytest.mark.parametrize(
        "text", ['the "geheim" museum', "the geheim\nmuseum", "das geheime Müseum", "a\\geheim\tmuseum"]
    )
    def test_text_quoted_in_json_is_left_out(self, text):
        assert "geheim" not in blotted(json.dumps({"detail": [{"input": text}]}), secrets=[], texts=[text])

    def test_key_at_the_cut_is_left_out(self):
        text = "x " * 4992 + "y"
        shown = blotted(
            text + " " + "kanarienvogel-wellensittich", secrets=["kanarienvogel-wellensittich"], texts=[text]
        )
        assert held_in(shown, "kanarienvogel-wellensittich") is None

    @pytest.mark.parametrize(("letters", "shown"), [(500, "a " * 99 + "a…"), (501, "501 characters that are no JSON")])
    def test_page_that_is_no_json_is_only_counted(self, letters, shown):
        assert blotted(("a " * letters)[:letters], secrets=[], texts=[]) == shown

    def test_json_of_any_length_is_read(self):
        assert (
            blotted(json.dumps({"message": "no such model", "is": [1] * 500}), secrets=[], texts=[]) == "no such model"
        )


def test_long_list_is_read_in_no_time():
    """A minute and more against a fraction of a second: it is the event loop's, and no deadline ends it."""
    code = (
        "from rerankx.network.faults import blotted; blotted('[' + '1,' * 1_200_000 + '1]', secrets=[], texts=['text'])"
    )
    subprocess.run([sys.executable, "-c", code], timeout=8, check=True)


def said():
    return "words"


def fault(code=429, **headers):
    return of_status(code, httpx.Headers({k.replace("_", "-"): v for k, v in headers.items()}), said)


class TestRetryAfter:
    @pytest.mark.parametrize(("asked", "seconds"), [("0", 0), ("5", 5), (" 7 ", 7), ("3600", 3600), ("0005", 5)])
    def test_in_seconds(self, asked, seconds):
        assert fault(Retry_After=asked).after_s == seconds

    @pytest.mark.parametrize(("asked", "seconds"), [("1500", 1.5), ("0", 0), ("2.5", 0.0025)])
    def test_in_milliseconds(self, asked, seconds):
        assert fault(Retry_After_Ms=asked).after_s == seconds

    def test_in_milliseconds_is_more_exact(self):
        assert fault(Retry_After_Ms="1500", Retry_After="2").after_s == 1.5

    @pytest.fixture
    def now(self, monkeypatch):
        monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
        return 1_800_000_000

    def test_as_a_date(self, now):
        assert fault(Retry_After=formatdate(now + 90, usegmt=True)).after_s == 90

    def test_as_a_date_with_a_zone(self, now):
        assert fault(Retry_After="Fri, 15 Jan 2027 10:01:30 +0200").after_s == 90

    def test_as_an_old_date_of_rfc_850(self, now):
        assert fault(Retry_After="Friday, 15-Jan-27 08:01:30 GMT").after_s == 90

    @pytest.fixture
    def far_from_greenwich(self, monkeypatch):
        monkeypatch.setenv("TZ", "America/Los_Angeles")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of the process cannot be set here")
    def test_as_an_old_date_of_asctime(self, far_from_greenwich, monkeypatch):
        monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
        assert fault(Retry_After="Fri Jan 15 08:01:30 2027").after_s == 90

    def test_that_has_passed_is_now(self, now):
        assert fault(Retry_After=formatdate(now - 90, usegmt=True)).after_s == 0

    @pytest.mark.parametrize(
        "asked", ["", " ", "soon", "-5", "²", "Fri, 99 Foo 2027", "1e3", "5 s", "1,5", "Fri, 31 Dec 99999 23:59:59 GMT"]
    )
    def test_that_says_nothing_is_none(self, asked):
        assert of_status(429, {"retry-after": asked}, said).after_s is None

    def test_that_is_missing_is_none(self):
        assert fault().after_s is None

    @pytest.mark.parametrize("asked", ["9" * 400, "9" * 5000])
    def test_beyond_all_bounds_is_none(self, asked):
        assert fault(Retry_After=asked).after_s is None

    def test_in_milliseconds_that_are_none_leaves_the_seconds(self):
        assert fault(Retry_After_Ms="soon", Retry_After="5").after_s == 5

    @pytest.mark.parametrize("asked", ["nan", "-nan", "inf", "-5", "soon"])
    def test_in_milliseconds_that_are_none_is_none(self, asked):
        assert fault(Retry_After_Ms=asked).after_s is None

    @pytest.mark.parametrize("code", [429, 503, 500, 408])
    def test_is_seen_wherever_a_retry_may_be(self, code):
        assert fault(code, Retry_After="5").after_s == 5


class TestStatus:
    @pytest.mark.parametrize(
        ("codes", "error", "again", "sick"),
        [
            ((401, 403, 498), AuthenticationError, False, False),
            ((402,), RateLimitError, False, False),
            ((429,), RateLimitError, True, False),
            ((408, 409), BackendError, True, False),
            ((500, 501, 502, 503, 504, 529, 599), BackendError, True, True),
            ((400, 404, 405, 413, 418, 422, 424, 499), BackendError, False, False),
            ((300, 301, 302, 303, 304, 307, 308), BackendError, False, False),
        ],
    )
    def test_says_what_follows(self, codes, error, again, sick):
        for code in codes:
            found = of_status(code, {}, said)
            assert (found.error, found.again, found.sick, found.timed_out) == (error, again, sick, False)
            assert (found.answered, found.sent, found.billed) == (not sick, True, False)
            assert f"HTTP {code}" in found.words

    def test_words_of_the_service_are_asked_for_only_when_needed(self):
        assert of_status(400, {}, said).said is said
        assert of_status(302, {}, said).said is None

    def test_permanent_words_end_it(self):
        found = of_status(500, {}, said, permanent=True)
        assert (found.again, found.sick, found.answered) == (False, False, True)

    def test_redirect_names_the_host_alone(self):
        found = of_status(302, {"location": f"https://user:{KEY}@elsewhere.example/path?key={KEY}"}, said)
        assert "sends on to elsewhere.example;" in found.words
        assert held_in(told(found)) is None

    def test_redirect_to_nowhere_is_one(self):
        assert "sends on to another address" in of_status(302, {}, said).words

    def test_redirect_to_what_is_no_address_is_one(self):
        assert "sends on to another address" in of_status(302, {"location": "http://host:port/"}, said).words


REQUEST = httpx.Request("POST", "http://host", headers={"Authorization": f"Bearer {KEY}"})


def excepted(error):
    return of_exception(error, address="http://host")


class TestException:
    @pytest.mark.parametrize(
        ("raised", "error", "again", "sick", "timed_out", "sent", "billed"),
        [
            (httpx.ReadTimeout("", request=REQUEST), DeadlineError, True, True, True, True, True),
            (httpx.ConnectTimeout("", request=REQUEST), DeadlineError, True, True, True, True, True),
            (httpx.PoolTimeout("", request=REQUEST), DeadlineError, True, True, True, True, True),
            (httpx.ConnectError("refused", request=REQUEST), BackendError, True, True, False, False, False),
            (httpx.ReadError("reset", request=REQUEST), BackendError, True, True, False, True, True),
            (httpx.RemoteProtocolError("closed", request=REQUEST), BackendError, True, True, False, True, True),
            (httpx.ProxyError("407", request=REQUEST), BackendError, False, False, False, False, False),
            (httpx.ProxyError("502 Bad Gateway", request=REQUEST), BackendError, True, True, False, False, False),
            (httpx.UnsupportedProtocol("ftp", request=REQUEST), BackendError, False, False, False, False, False),
            (TooMuchError("too long"), ReplyError, False, True, False, True, True),
            (TooLargeError("too large"), BackendError, False, False, False, False, False),
            (ValueError(KEY), BackendError, False, False, False, True, True),
        ],
        ids=lambda v: type(v).__name__ if isinstance(v, Exception) else "",
    )
    def test_says_what_follows(self, raised, error, again, sick, timed_out, sent, billed):
        found = excepted(raised)
        assert (found.error, found.again, found.sick, found.timed_out) == (error, again, sick, timed_out)
        assert (found.sent, found.billed, found.answered) == (sent, billed, False)
        assert held_in(told(found)) is None

    def test_of_a_certificate_names_what_helps_and_is_nothing_to_try_again(self):
        words = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)"
        found = excepted(httpx.ConnectError(words, request=REQUEST))
        assert (found.again, found.sick, found.sent, found.billed) == (False, False, False, False)
        assert "SSL_CERT_FILE" in found.words

    def test_of_a_header_that_cannot_be_sent_says_no_header(self):
        found = excepted(httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'", request=REQUEST))
        assert held_in(told(found)) is None

    def test_of_a_header_that_cannot_be_sent_is_nothing_to_try_again(self):
        found = excepted(httpx.LocalProtocolError("Illegal header value", request=REQUEST))
        assert (found.again, found.sick, found.billed) == (False, False, False)


class TestResults:
    @settings(deadline=None)
    @given(st.data(), st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
    def test_scores_stay_with_their_texts(self, data, scores):
        order = data.draw(st.permutations(range(len(scores))))
        kept = order[: data.draw(st.integers(0, len(order)))]
        values, found = checked_results([(i, scores[i]) for i in kept], len(scores))
        assert found == kept
        assert values == [score if i in kept else None for i, score in enumerate(scores)]

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.none() | st.integers(-3, 5) | st.booleans() | st.floats() | st.text(), st.none() | st.integers()
                              | st.floats() | st.booleans() | st.text() | st.lists(st.integers()))))  # fmt: skip
    def test_others_are_a_fault_or_a_scoring(self, results):
        found = None
        try:
            values, order = checked_results(results, 3)
        except Fault as fault:
            found = fault
        if found is not None:
            assert (found.error, found.again) == (ReplyError, False)
        else:
            assert len(set(order)) == len(order) == sum(value is not None for value in values)

    def test_message_holds_no_words_of_the_servers(self):
        for index, score in ((KEY, 0.5), (0, KEY), ([KEY], 0.5), (0, {KEY: KEY})):
            with pytest.raises(Fault) as caught:
                checked_results([(index, score)], 1)
            assert held_in(told(caught.value)) is None


def test_certificates_of_the_environment_are_taken(tmp_path, monkeypatch):
    """A company's own: SSL_CERT_FILE, as for every program on OpenSSL."""
    one, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (tmp_path / "one.pem").write_text(one + end)
    monkeypatch.setattr(client_module, "_tls", Once(httpx.create_ssl_context))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "one.pem"))
    assert tls().cert_store_stats()["x509"] == 1


class TestJoined:
    @pytest.mark.parametrize(
        ("base_url", "path", "expected"),
        [
            ("http://h", "/v1/rerank", "http://h/v1/rerank"),
            ("http://h/v1", "/v1/rerank", "http://h/v1/rerank"),
            ("http://h/v1/rerank", "/v1/rerank", "http://h/v1/rerank"),
            ("http://h/a/v1", "/v1/rerank", "http://h/a/v1/rerank"),
            ("http://h/a", "/v1/rerank", "http://h/a/v1/rerank"),
            ("http://h/av1", "/v1/rerank", "http://h/av1/v1/rerank"),
            ("http://v1", "/v1/rerank", "http://v1/v1/rerank"),
            ("http://h/rerank", "/rerank", "http://h/rerank"),
            ("http://rerank", "/rerank", "http://rerank/rerank"),
            ("http://h:80", "/", "http://h:80/"),
        ],
    )
    def test_is_one_address(self, base_url, path, expected):
        assert joined(base_url, path) == expected

    @settings(deadline=None)
    @given(st.lists(st.sampled_from(["v1", "api", "rerank", "a"]), min_size=1, max_size=4), st.data())
    def test_beginning_that_is_there_is_not_repeated(self, steps, data):
        path = "/" + "/".join(steps)
        n = data.draw(st.integers(0, len(steps)))
        got = joined("/".join(["http://h/x", *steps[:n]]), path)
        assert got.startswith("http://h/x")
        assert got.endswith(path)
