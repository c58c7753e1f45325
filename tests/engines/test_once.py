"""A thing that is made on first use is made once, by whoever comes first."""

import gc
import os
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankx.engines.once import Once, _all


class Thing:
    """Something that a weak reference may point to."""


def test_nothing_is_made_until_it_is_asked_for():
    made = []
    Once(lambda: made.append(1))
    assert made == []


def test_it_is_made_once():
    once = Once(Thing)
    assert once.get() is once.get()


@pytest.mark.parametrize("value", [None, 0, ""])
def test_a_value_that_looks_like_nothing_is_made_once_as_well(value):
    made = []
    once = Once(lambda: made.append(1) or value)
    assert [once.get(), once.get()] == [value, value]
    assert made == [1]


def test_threads_that_come_together_wait_for_the_one_that_makes_it():
    made, begun, go_on = [], threading.Event(), threading.Event()

    def make():
        begun.set()
        go_on.wait(10)
        made.append(Thing())
        return made[-1]

    once = Once(make)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(once.get) for _ in range(8)]
        begun.wait(10)
        assert not any(result.done() for result in results)
        go_on.set()
        assert {id(result.result(10)) for result in results} == {id(made[0])}
    assert len(made) == 1


def test_an_error_is_raised_to_who_asked_and_the_next_one_tries_again():
    answers = iter([KeyError("first"), KeyError("second"), "third"])

    def make():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    once = Once(make)
    for word in ("first", "second"):
        with pytest.raises(KeyError, match=word):
            once.get()
    assert once.get() == once.get() == "third"


def test_what_is_forgotten_is_made_anew():
    once = Once(Thing)
    first = once.get()
    once.forget()
    assert once.get() is not first


def test_to_forget_what_was_never_made_is_nothing():
    made = []
    once = Once(lambda: made.append(1))
    once.forget()
    assert made == []


def test_what_is_forgotten_is_freed():
    once = Once(Thing)
    gone = weakref.ref(once.get())
    once.forget()
    gc.collect()
    assert gone() is None


def test_one_that_nobody_holds_is_not_held_either():
    before = len(_all)
    once = Once(Thing)
    gone = weakref.ref(once)
    assert len(_all) == before + 1
    del once
    gc.collect()
    assert gone() is None
    assert len(_all) <= before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_it_was_being_made_makes_its_own():
    begun, go_on, parent = threading.Event(), threading.Event(), os.getpid()

    def make():
        if os.getpid() == parent:
            begun.set()
            go_on.wait(30)
        return os.getpid()

    once = Once(make)
    thread = threading.Thread(target=once.get)
    thread.start()
    begun.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if once.get() == os.getpid() else 1)
    go_on.set()
    thread.join(10)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert once.get() == parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_what_was_made_before():
    once = Once(os.getpid)
    made = once.get()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if once.get() == made else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
