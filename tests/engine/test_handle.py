"""Handle and event queue: one reader, bounded, cancelled when it is left, dropped or asked to."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.engine.handle import EventQueue, Handle, joined
from vita.errors import MediaError, RequestError
from vita.events import Done, Event, ReasoningDelta, Started, TextDelta, Timings, Usage


def done(index: int = 0, reason: str = "stop") -> Done:
    return Done(reason, None, Usage(), Timings(), index=index)  # type: ignore[arg-type]


ANSWER: tuple[Event, ...] = (Started("typed"), TextDelta("Hel"), TextDelta("lo"), done())


class Fake:
    """A queue, its handle, and what the engine was told."""

    def __init__(self, *events: Event | BaseException, count: int = 1, max_events: int = 256) -> None:
        self.now, self.wakes, self.cancels = 0.0, 0, 0
        self.queue = EventQueue(self.wake, lambda: self.now, max_events)
        for event in events:
            self.queue.put(event)
        self.on_cancel: Callable[[], None] = lambda: None
        self.handle = Handle(self.queue, self.cancel, count)

    def wake(self) -> None:
        self.wakes += 1

    def cancel(self) -> None:
        self.cancels += 1
        self.on_cancel()


class TestEventQueue:
    def test_events_come_in_order_and_none_is_none(self) -> None:
        fake = Fake(*ANSWER)
        assert [fake.queue.get(0) for _ in range(5)] == [*ANSWER, None]

    def test_taking_from_a_full_queue_wakes_the_engine(self) -> None:
        fake = Fake(max_events=2)
        fake.queue.put(TextDelta("a"))
        assert not fake.queue.full
        fake.queue.put(TextDelta("b"))
        fake.queue.put(TextDelta("c"))  # never refused
        assert fake.queue.full
        fake.queue.get(0)
        assert fake.queue.full and fake.wakes == 1
        fake.queue.get(0)
        assert not fake.queue.full and fake.wakes == 2
        fake.queue.get(0)
        assert fake.wakes == 2, "it was not full"

    def test_unread_time_counts_from_when_it_became_full_or_was_last_read(self) -> None:
        fake = Fake(max_events=2)
        fake.now = 100.0
        fake.queue.put(TextDelta("a"))
        fake.now = 200.0
        assert fake.queue.unread_for() == 0
        fake.queue.put(TextDelta("b"))
        fake.now = 230.0
        fake.queue.put(TextDelta("c"))
        assert fake.queue.unread_for() == 30.0
        fake.queue.get(0)
        fake.now = 235.0
        assert fake.queue.full and fake.queue.unread_for() == 5.0

    def test_a_reader_waits_for_the_engine_thread(self) -> None:
        fake, got = Fake(), list[object]()
        reader = threading.Thread(target=lambda: got.extend(fake.queue.get() for _ in range(4)))
        reader.start()
        for event in ANSWER:
            fake.queue.put(event)
        reader.join(10)
        assert got == list(ANSWER)

    def test_events_from_a_thread_reach_an_event_loop_in_order(self) -> None:
        fake = Fake()
        count = 500

        async def read() -> list[object]:
            writer = threading.Thread(target=lambda: [fake.queue.put(TextDelta(str(k))) for k in range(count)])
            writer.start()
            return [await fake.queue.aget() for _ in range(count)]

        assert asyncio.run(read()) == [TextDelta(str(k)) for k in range(count)]

    def test_a_closed_event_loop_does_not_reach_the_engine_thread(self) -> None:
        fake, loop = Fake(), asyncio.new_event_loop()
        with pytest.raises(TimeoutError):
            loop.run_until_complete(asyncio.wait_for(fake.queue.aget(), 0.001))
        loop.close()
        loop.is_closed = lambda: False  # type: ignore[method-assign]  # it closes right behind the check
        fake.queue.put(TextDelta("a"))
        assert fake.queue.get(0) == TextDelta("a")


class TestReading:
    def test_iteration_ends_with_done_and_does_not_cancel(self) -> None:
        fake = Fake(*ANSWER)
        assert tuple(fake.handle) == ANSWER and fake.cancels == 0
        assert list(fake.handle) == []

    def test_result(self) -> None:
        result = Fake(*ANSWER).handle.result()
        assert (result.text, result.finish_reason) == ("Hello", "stop")

    def test_results_of_several_answers(self) -> None:
        events = (Started(None, 1), TextDelta("b", 1), Started(None, 0), TextDelta("a", 0), done(1), done(0))
        fake = Fake(*events, count=2)
        assert [result.text for result in fake.handle.results()] == ["a", "b"] and fake.cancels == 0
        fake = Fake(*events, count=2)
        assert fake.handle.result().text == "a" and fake.cancels == 0

    @pytest.mark.parametrize("first", ["result", "results", "aresult"])
    def test_results_can_be_asked_for_again_in_any_order(self, first: str) -> None:
        events = (Started(None, 1), TextDelta("b", 1), Started(None, 0), TextDelta("a", 0), done(1), done(0))
        fake = Fake(*events, count=2)
        read: dict[str, Callable[[], list[str]]] = {
            "result": lambda: [fake.handle.result().text],
            "results": lambda: [result.text for result in fake.handle.results()],
            "aresult": lambda: [asyncio.run(fake.handle.aresult()).text],
        }
        for name in (first, *read, *read):
            assert read[name]() == (["a", "b"] if name == "results" else ["a"]), name
        fake.handle.results().clear()
        assert len(fake.handle.results()) == 2, "the list is the caller's"

    def test_a_result_of_events_that_were_all_read_is_refused(self) -> None:
        fake = Fake(*ANSWER)
        assert tuple(fake.handle) == ANSWER
        for read in (fake.handle.result, fake.handle.results, lambda: asyncio.run(fake.handle.aresult())):
            with pytest.raises(RequestError, match="were read already"):
                read()

    def test_an_error_is_raised_by_every_reading(self) -> None:
        fake = Fake(MediaError("broken"))
        for read in (fake.handle.result, lambda: list(fake.handle), fake.handle.results):
            with pytest.raises(MediaError, match="broken"):
                read()
        assert fake.cancels == 0

    def test_an_error_after_some_events(self) -> None:
        fake, got = Fake(Started(None), TextDelta("a"), MediaError("broken")), list[Event]()
        with pytest.raises(MediaError, match="broken"):
            got.extend(event for event in fake.handle if got.append(event))  # type: ignore[func-returns-value]
        assert got == [Started(None), TextDelta("a")]


class TestCancelling:
    def test_leaving_the_loop_early_cancels(self) -> None:
        fake = Fake(*ANSWER)
        for _ in fake.handle:
            break
        gc.collect()
        assert fake.cancels >= 1

    def test_a_dropped_handle_cancels_and_an_ended_one_does_not(self) -> None:
        fake = Fake(*ANSWER)
        del fake.handle
        gc.collect()
        assert fake.cancels == 1
        fake = Fake(*ANSWER)
        fake.handle.result()
        del fake.handle
        gc.collect()
        assert fake.cancels == 0

    def test_a_stream_that_was_never_begun_cancels(self) -> None:
        fake = Fake(*ANSWER)
        events = fake.handle.iterate()
        del fake.handle
        gc.collect()
        assert fake.cancels == 0
        del events
        gc.collect()
        assert fake.cancels == 1

    def test_the_cancelled_callable_is_polled_while_nothing_comes(self) -> None:
        fake, asked = Fake(), list[int]()

        def cancelled() -> bool:
            asked.append(1)
            return len(asked) == 3

        fake.on_cancel = lambda: fake.queue.put(done(reason="cancelled"))
        assert fake.handle.result(cancelled).finish_reason == "cancelled"
        assert len(asked) == 3 and fake.cancels == 1, "not asked again once it was true"

    def test_an_error_of_the_cancelled_callable_reaches_the_reader_and_cancels(self) -> None:
        fake = Fake()

        def cancelled() -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fake.handle.result(cancelled)
        assert fake.cancels == 1

    def test_cancel_from_another_thread_ends_the_reader(self) -> None:
        fake = Fake(Started(None))
        fake.on_cancel = lambda: fake.queue.put(done(reason="cancelled"))
        threading.Thread(target=fake.handle.cancel).start()
        assert fake.handle.result().finish_reason == "cancelled"


class TestAsync:
    def test_iteration_and_result(self) -> None:
        async def read() -> tuple[Event, ...]:
            return tuple([event async for event in Fake(*ANSWER).handle])

        async def result() -> str:
            return (await Fake(*ANSWER).handle.aresult()).text

        assert asyncio.run(read()) == ANSWER and asyncio.run(result()) == "Hello"

    def test_a_cancelled_task_cancels_the_request(self) -> None:
        fake = Fake(Started(None))

        async def cancel() -> None:
            task = asyncio.create_task(fake.handle.aresult())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(cancel())
        assert fake.cancels == 1

    def test_leaving_the_loop_early_cancels(self) -> None:
        fake = Fake(*ANSWER)

        async def leave() -> None:
            async for _ in fake.handle:
                break

        asyncio.run(leave())
        assert fake.cancels == 1

    def test_started_hands_out_nothing_twice(self) -> None:
        fake = Fake(*ANSWER)

        async def read() -> tuple[object, ...]:
            first = await fake.handle.started()
            again = await fake.handle.started()
            return first, again, tuple([event async for event in fake.handle]), await fake.handle.started()

        assert asyncio.run(asyncio.wait_for(read(), 10)) == (ANSWER[0], ANSWER[0], ANSWER, ANSWER[0])

    def test_started_raises_what_went_wrong(self) -> None:
        fake = Fake(MediaError("broken"))

        async def read() -> None:
            for _ in range(2):
                with pytest.raises(MediaError, match="broken"):
                    await fake.handle.started()
            with pytest.raises(MediaError, match="broken"):
                [event async for event in fake.handle]

        asyncio.run(read())

    def test_started_of_a_request_that_was_cancelled_before(self) -> None:
        fake = Fake(done(0, "cancelled"), done(1, "cancelled"), count=2)

        async def read() -> object:
            return await fake.handle.started()

        assert asyncio.run(read()) == done(0, "cancelled")
        assert len(fake.handle.results()) == 2


class TestCoalescing:
    LONG = 60.0  # seconds; a test that waited for it would time out

    def read(self, fake: Fake, seconds: float = LONG) -> list[Event]:
        async def read() -> list[Event]:
            return [event async for event in fake.handle.coalesced(seconds)]

        return asyncio.run(asyncio.wait_for(read(), 20))

    def test_the_first_delta_and_the_end_do_not_wait(self) -> None:
        fake = Fake()
        got: list[Event] = []

        def write(*events: Event) -> None:
            for event in events:
                fake.queue.put(event)

        async def read() -> None:
            async for event in fake.handle.coalesced(self.LONG):
                got.append(event)
                if event == TextDelta("Hel"):  # the rest comes within the time
                    threading.Timer(0.05, write, [TextDelta("l"), TextDelta("o"), done()]).start()

        threading.Timer(0.05, write, [Started("typed"), TextDelta("Hel")]).start()
        asyncio.run(asyncio.wait_for(read(), 20))
        assert got == [Started("typed"), TextDelta("Hel"), TextDelta("lo"), done()]

    def test_deltas_that_wait_are_given_out_when_the_time_is_over(self) -> None:
        fake = Fake()

        async def read() -> list[Event]:
            events = fake.handle.coalesced(0.05)
            fake.queue.put(TextDelta("a"))
            first = await anext(events)
            fake.queue.put(TextDelta("b"))
            fake.queue.put(TextDelta("c"))
            return [first, await asyncio.wait_for(anext(events), 20)]

        assert asyncio.run(read()) == [TextDelta("a"), TextDelta("bc")]

    def test_what_started_took_comes_first_and_once(self) -> None:
        fake = Fake(*ANSWER)

        async def read() -> list[Event]:
            await fake.handle.started()
            return [event async for event in fake.handle.coalesced(self.LONG)]

        assert asyncio.run(read()) == [Started("typed"), TextDelta("Hello"), done()] and fake.cancels == 0

    def test_an_error_is_raised_behind_the_text_before_it(self) -> None:
        fake, got = Fake(TextDelta("a"), TextDelta("b"), MediaError("no image")), list[Event]()

        async def read() -> None:
            async for event in fake.handle.coalesced(self.LONG):
                got.append(event)

        with pytest.raises(MediaError):
            asyncio.run(read())
        assert got == [TextDelta("ab")]

    def test_leaving_early_cancels(self) -> None:
        fake = Fake(Started("typed"), TextDelta("a"))

        async def leave() -> None:
            events = fake.handle.coalesced(self.LONG)
            await anext(events)
            await events.aclose()

        asyncio.run(leave())
        assert fake.cancels == 1

    @given(
        st.lists(st.tuples(st.sampled_from((TextDelta, ReasoningDelta)), st.sampled_from("abc"), st.integers(0, 2))),
        st.randoms(use_true_random=False),
    )
    def test_joined_deltas_hold_the_same_answers(self, made: list[tuple[type, str, int]], rng: Random) -> None:
        events = [kind(text, index) for kind, text, index in made]
        found, left = list[Event](), list(events)
        while left:  # in batches of any size
            size = rng.randint(1, len(left))
            found += joined(left[:size])
            left = left[size:]
        for index in range(3):
            assert spoken(found, index) == spoken(events, index)


def spoken(events: Sequence[Event], index: int) -> list[tuple[type, str]]:
    """Kind and text of every letter of an answer."""
    return [(type(e), letter) for e in events if e.index == index for letter in e.text]
