"""Worker threads over a list of objects: the first failure ends all of them and is the one that is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from matriarch.backup.stop import Stop

T = TypeVar("T")
R = TypeVar("R")


def work(items: Iterable[T], workers: int, make: Callable[[], Callable[[int, T], R]], stop: Stop) -> list[R]:
    """Each item, with its number, by one of `workers` threads; results in the items' order.

    `make` gives each thread its own function, with what it needs for itself. Raises the first failure after all
    threads have ended.
    """
    source = enumerate(items)
    lock = threading.Lock()
    failed = threading.Event()
    results: dict[int, R] = {}

    def run() -> None:
        try:
            do = make()
            while not failed.is_set():
                stop.check()
                with lock:
                    number, item = next(source, (-1, None))
                if item is None:
                    return
                results[number] = do(number, item)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="pack") as pool:
        running = [pool.submit(run) for _ in range(workers)]
    for done in running:
        done.result()
    return [results[n] for n in sorted(results)]
