"""
An event loop on a virtual clock, and processes that can be killed on it.

1. When nothing is ready the clock jumps to the next timer, so minutes pass in milliseconds and no
   time passes while code runs. Where nothing could ever happen again the loop fails: `Stalled`.
2. Work for threads (the database, files) runs on the loop itself, as long after it was handed in
   as a seeded random number says; one thread's work keeps its order. So there are no real threads
   and one seed is one run.
3. A `Process` is a set of tasks that ends as `kill -9` ends one: from that instant on not a line
   of it runs, no `finally` either; work that its threads had not begun is never done.
"""

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar
from functools import partial
from random import Random
from typing import Any

_PROCESS: ContextVar["Process | None"] = ContextVar("process", default=None)

#: Threads of the pool that `asyncio.to_thread` uses.
_DEFAULT_THREADS = 4
#: How long work on a thread takes, in seconds: mostly little, now and then long.
_QUICK, _SLOW, _SLOW_SHARE = 0.002, 0.3, 0.02


class Stalled(Exception):
    """Everything waits, and no timer is set."""


class Process:
    """One simulated process: what runs within it, from its start until it is killed."""

    def __init__(self, name: str, loop: "VirtualLoop") -> None:
        self.name = name
        self.is_alive = True
        #: Whether it may run again, to nobody's notice, so that nothing of it is left pending.
        self.is_buried = False
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_PROCESS.set, self)
        #: Kept, so that what was killed is not collected half-way, which would run its `finally`.
        self.tasks: set[asyncio.Task[Any]] = set()
        self.frozen: list[tuple[Callable[..., Any], tuple[Any, ...], Context]] = []

    def run(self, work: Callable[..., Any], *args: Any) -> Any:
        """Call *work* within the process."""
        return self._context.copy().run(work, *args)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run *work* as a task of the process."""
        task: asyncio.Task[Any] = self.run(self._loop.create_task, work)
        return task

    def kill(self) -> None:
        """End the process this instant."""
        self.is_alive = False


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; *random* says how long threads take."""

    def __init__(self, random: Random) -> None:
        self._now = 1000.0
        self._random = random
        super().__init__(_Jumping(self))
        #: When each thread of each executor is free again.
        self._threads: dict[Any, list[float]] = {}
        self._processes: list[Process] = []
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def new_process(self, name: str) -> Process:
        """Begin a process."""
        process = Process(name, self)
        self._processes.append(process)
        return process

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Call within the process of *context*, if that lives then."""
        context = context or contextvars.copy_context()
        if (process := context.get(_PROCESS)) is not None:
            callback, args = partial(_call, process, context, callback), args
        return super().call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Call at a time within the process of *context*, if that lives then."""
        context = context or contextvars.copy_context()
        if (process := context.get(_PROCESS)) is not None:
            callback, args = partial(_call, process, context, callback), args
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run *func* on the loop, when a thread of *executor* would have."""
        future = self.create_future()
        process = _PROCESS.get()
        owner: Any
        if isinstance(executor, ThreadPoolExecutor):
            owner, count = executor, executor._max_workers
        else:
            owner, count = process, _DEFAULT_THREADS
        threads = self._threads.setdefault(owner, [0.0] * count)
        number = min(range(count), key=lambda index: threads[index])
        begins = max(self._now, threads[number]) + self._takes()
        threads[number] = ends = begins + self._takes()

        def work() -> None:
            if future.cancelled():
                return
            if process is not None and process.is_buried:
                future.cancel()
                return
            try:
                result = func(*args)
            # As executors do: whatever it was, it belongs to whoever waits.
            except BaseException as error:
                self.call_at(ends, _settle, future, None, error)
            else:
                self.call_at(ends, _settle, future, result, None)

        self.call_at(begins, work)
        return future

    def bury(self) -> None:
        """Let what was killed run to its end, so that nothing is left pending."""
        tasks = [task for process in self._processes for task in process.tasks]
        self.set_exception_handler(lambda _loop, _context: None)
        for process in self._processes:
            process.is_alive = process.is_buried = True
            for callback, args, context in process.frozen:
                super().call_soon(callback, *args, context=context)
            process.frozen.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            self.run_until_complete(asyncio.wait(tasks, timeout=300))

    def _takes(self) -> float:
        is_slow = self._random.random() < _SLOW_SHARE
        return self._random.random() * (_SLOW if is_slow else _QUICK)


class _Jumping(selectors.SelectSelector):
    """Waits for nothing but time, of which there is as much as one likes."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stalled("nothing is ready and no timer is set")
        self._loop.advance(timeout)
        return []


def _call(process: Process, context: Context, callback: Any, *args: Any) -> None:
    if process.is_alive:
        callback(*args)
    else:
        process.frozen.append((callback, args, context))


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **kwargs: Any
) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, **kwargs)
    if (process := _PROCESS.get()) is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task
