"""Items made ahead on a thread: their order, errors, how far ahead, and the end."""

import threading
import time

import pytest

from yolov2.inference.ahead import ahead


def test_order():
    assert list(ahead(range(100), 3)) == list(range(100))
    assert list(ahead([], 3)) == []


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        yield 2
        raise OSError("broken")

    got = []
    with pytest.raises(OSError, match="broken"):
        for item in ahead(items(), 5):
            got.append(item)
    assert got == [1, 2]


def test_not_further_than_allowed():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    stream = ahead(items(), 2)
    for i in range(5):
        assert next(stream) == i
        time.sleep(0.02)
        assert len(made) <= i + 1 + 3  # taken, two that wait and one being made
    stream.close()


def test_what_cannot_be_iterated_is_told():
    with pytest.raises(TypeError, match="not iterable"):
        next(ahead(5, 1))  # type: ignore[arg-type]


def test_closing_closes_the_source_on_its_thread():
    closed = []

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    stream = ahead(items(), 2)
    next(stream)
    stream.close()
    assert closed == ["ahead"]
    assert not any(thread.name == "ahead" for thread in threading.enumerate())
