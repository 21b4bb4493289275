"""Work that is done ahead of its consumer, on a thread: pictures are read while others are computed."""

import queue
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], most: int) -> Generator[T, None, None]:
    """The same items, made by a thread of their own, up to `most` before they are asked for.

    Parameters
    ----------
    items : iterable
        Iterated on the thread, and closed there if it can be.
    most : int
        So many items wait at most, besides the one that is being made.

    Yields
    ------
    object
        What `items` yields, in order; what it raises is raised here, in its place.

    Notes
    -----
    Closing the generator stops the thread after the item that it is at.
    """
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()
    room, stop = threading.Semaphore(most + 1), threading.Event()
    iterator = iter(items)

    def work() -> None:
        try:
            while room.acquire() and not stop.is_set():
                try:
                    done.put((next(iterator), None))
                except BaseException as error:  # StopIteration among them
                    done.put((None, error))
                    return
        finally:
            if isinstance(iterator, Generator):
                iterator.close()

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        while True:
            item, error = done.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            room.release()
            yield item  # type: ignore[misc]
            item = None  # not kept alive while the next one is waited for
    finally:
        stop.set()
        room.release()
        thread.join()
