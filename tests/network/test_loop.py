"""Synchronous calls of asynchronous code: from any thread, with the caller's context, and nothing left in the end."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from rerankx import BackendError
from rerankx.interface import deadline, remaining_s
from rerankx.network import loop

variable: ContextVar[str] = ContextVar("variable", default="nothing")


async def answer(value=42):
    await asyncio.sleep(0)
    return value


async def where():
    return asyncio.get_running_loop(), threading.get_ident()


class TestRun:
    def test_returns_what_the_coroutine_returns(self):
        assert loop.run(answer("x")) == "x"

    @pytest.mark.parametrize(
        "error", [KeyError("k"), TimeoutError(), BackendError("b")], ids=lambda e: type(e).__name__
    )
    def test_raises_what_the_coroutine_raises(self, error):
        async def fails():
            raise error

        with pytest.raises(type(error)) as caught:
            loop.run(fails())
        assert (type(caught.value), caught.value.args) == (type(error), error.args)

    def test_cancelled_coroutine_does_not_hang_its_caller(self):
        async def is_cancelled():
            asyncio.current_task().cancel()
            await asyncio.sleep(60)

        with pytest.raises(CancelledError):
            loop.run(is_cancelled())
        assert loop.run(answer()) == 42

    # The thread's own last words: an exit that nobody handles.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("exit_", [SystemExit, KeyboardInterrupt])
    def test_an_exit_in_it_does_not_hang_who_waits_and_the_next_call_works(self, exit_):
        async def leaves():
            raise exit_

        with pytest.raises(RuntimeError, match="ended by an exit"):
            loop.run(leaves())
        assert loop.run(answer()) == 42

    def test_works_inside_a_running_loop(self):
        async def main():
            return loop.run(answer()), await answer()

        assert asyncio.run(main()) == (42, 42)

    def test_is_on_one_loop_in_one_thread_that_is_not_the_callers(self):
        with ThreadPoolExecutor(8) as pool:
            seen = set(pool.map(lambda _: loop.run(where()), range(40)))
        assert len(seen) == 1
        assert {ident for _, ident in seen} != {threading.get_ident()}

    def test_many_threads_get_their_own_answers(self):
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda i: loop.run(answer(i)), range(200))) == list(range(200))

    def test_calls_run_beside_each_other(self):
        n, together = 6, []

        async def meet():
            together.append(1)
            while len(together) < n:
                await asyncio.sleep(0.001)
            return True

        with ThreadPoolExecutor(n) as pool:
            assert all(pool.map(lambda _: loop.run(asyncio.wait_for(meet(), 30)), range(n)))

    def test_thread_does_not_keep_the_process(self):
        loop.run(answer())
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "rerankx"]
        assert thread.daemon

    def test_sees_the_context_of_the_caller(self):
        async def seen():
            return variable.get()

        token = variable.set("something")
        try:
            assert loop.run(seen()) == "something"
        finally:
            variable.reset(token)
        assert loop.run(seen()) == "nothing"

    def test_does_not_change_the_context_of_the_caller(self):
        async def sets():
            variable.set("other")

        loop.run(sets())
        assert variable.get() == "nothing"

    def test_sees_the_deadline_of_the_caller(self):
        async def left():
            return remaining_s()

        with deadline(100):
            assert 0 < loop.run(left()) <= 100
        assert loop.run(left()) is None

    @pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal to a thread")
    def test_interrupt_of_who_waits_ends_the_coroutine(self):
        ended, begun = threading.Event(), threading.Event()

        async def waits():
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.set()

        def interrupt():
            begun.wait(30)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                loop.run(waits())
        finally:
            thread.join(30)
            signal.signal(signal.SIGINT, before)
        assert ended.wait(30)
        assert loop.run(answer()) == 42

    def test_from_its_own_thread_is_an_error(self):
        code = """
            import asyncio
            from rerankx.network import loop

            async def answer():
                return 42

            async def inner():
                coroutine = answer()
                try:
                    return loop.run(coroutine)
                finally:
                    coroutine.close()

            try:
                loop.run(inner())
            except RuntimeError:
                print("refused")
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=3)
        assert done.stdout == "refused\n"


def alone(code, *options):
    """Return what a process of its own says, on both channels, where every warning is an error."""
    command = [sys.executable, *options, "-W", "error", "-X", "dev", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


SERVED = """
    import asyncio, gc, logging, sys, threading
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # what is slow on a busy machine is no matter
    from rerankx.backends.http import Http

    HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: "
    REPLY = b'{"results": [{"index": 0, "relevance_score": 0.5}]}'

    async def answers(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\\r\\n\\r\\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\\r\\n")[0])
                await reader.readexactly(length)
                writer.write(HEAD + str(len(REPLY)).encode() + b"\\r\\n\\r\\n" + REPLY)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    ready, over = threading.Event(), None
    async def serve():
        global port, over, serving
        serving, over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(answers, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        await over.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait()
    backend = Http("m", base_url=f"http://127.0.0.1:{port}")
"""


def served(code):
    return textwrap.dedent(SERVED) + textwrap.dedent(code)


class TestProcess:
    def test_ends_without_a_word_when_nothing_was_asked(self):
        assert alone("import rerankx.network.loop") == (0, "", "")

    def test_ends_without_a_word_after_a_call(self):
        code = """
            import asyncio
            from rerankx.network import loop
            print(loop.run(asyncio.sleep(0, 42)))
        """
        assert alone(code) == (0, "42", "")

    def test_ends_without_a_word_with_connections_open(self):
        assert alone(served('print(backend.score("q", ["a"]).values)')) == (0, "(0.5,)", "")

    def test_ends_without_a_word_after_an_asynchronous_call(self):
        assert alone(served('print(asyncio.run(backend.ascore("q", ["a"])).values)')) == (0, "(0.5,)", "")

    def test_ends_without_a_word_when_the_backend_was_closed(self):
        assert alone(served('backend.score("q", ["a"]); backend.close(); print(backend.spent.calls)')) == (0, "1", "")

    def test_ends_without_a_word_when_the_backend_was_let_go(self):
        assert alone(served('backend.score("q", ["a"]); del backend; gc.collect(); print("ok")')) == (0, "ok", "")

    def test_ends_without_a_word_when_calls_are_under_way(self):
        code = """
            import asyncio, threading
            from rerankx.network import loop
            begun = threading.Event()
            async def waits():
                begun.set()
                await asyncio.sleep(600)
            def work():
                try:
                    loop.run(waits())
                except BaseException:
                    pass
            threading.Thread(target=work, daemon=True).start()
            begun.wait()
            print("ok")
        """
        assert alone(code) == (0, "ok", "")

    def test_closing_at_exit_works_where_it_was_registered_late(self):
        code = """
            import atexit
            backend.score("q", ["a"])
            atexit.register(lambda: (backend.close(), print("closed")))
        """
        assert alone(served(code)) == (0, "closed", "")

    def test_closing_at_exit_works_where_it_was_registered_early(self):
        early = """
            import atexit
            atexit.register(lambda: (backend.close(), print("closed")))
        """
        assert alone(textwrap.dedent(early) + served('backend.score("q", ["a"])')) == (0, "closed", "")

    def test_loop_of_ones_own_that_is_not_shut_down_is_no_hindrance(self):
        code = """
            running = asyncio.new_event_loop()
            running.run_until_complete(backend.ascore("q", ["a"]))
            running.run_until_complete(backend.aclose())
            running.run_until_complete(asyncio.sleep(0))
            running.close()
            print(backend.score("q", ["a"]).values)
        """
        assert alone(served(code)) == (0, "(0.5,)", "")

    def test_interrupt_ends_it(self):
        code = """
            import asyncio, os, signal, threading
            from rerankx.network import loop
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
            async def waits():
                os.kill(os.getpid(), signal.SIGINT)
                try:
                    await asyncio.sleep(600)
                finally:
                    print("cancelled", flush=True)
            try:
                loop.run(waits())
            except KeyboardInterrupt:
                print(loop.run(asyncio.sleep(0, "interrupted")))
        """
        code, out, err = alone(code)
        assert (code, sorted(out.split()), err) == (0, ["cancelled", "interrupted"], "")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_child_has_a_loop_of_its_own(self):
        code = """
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
            import os
            print(backend.score("q", ["a"]).values, flush=True)
            child = os.fork()
            if not child:
                print(backend.score("q", ["a"]).values, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print(backend.score("q", ["a"]).values)
        """
        assert alone(served(code)) == (0, "(0.5,)\n(0.5,)\n(0.5,)", "")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_child_can_end_as_any_process(self):
        code = """
            import warnings
            warnings.simplefilter("ignore", DeprecationWarning)
            import os
            backend.score("q", ["a"])
            if child := os.fork():
                print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            else:
                backend.score("q", ["a"])
                sys.exit(0)
        """
        assert alone(served(code)) == (0, "0", "")
