"""Player: everything is played once and in order, a stop drops the rest, and what was heard is counted."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from tests.speech.devices import Loudspeaker
from tests.speech.test_audio_file import Device

from vita.errors import ResourceError
from vita.speech.player import Player
from vita.speech.voice import PIECE, SAMPLE_RATE

SPEECH = np.random.default_rng(0).uniform(-1, 1, 10 * PIECE + 7).astype(np.float32)


def test_all_is_played_once_in_order() -> None:
    device = Loudspeaker()
    with Player(device) as player:
        player.write(SPEECH)
        player.write(SPEECH[:5])
        player.wait()
        assert player.heard == len(SPEECH) + 5
    np.testing.assert_array_equal(np.concatenate(device.played), np.concatenate([SPEECH, SPEECH[:5]]))
    assert (device.ended, device.closed) == ("stopped", True)


def test_write_does_not_wait_for_the_device_and_a_stop_drops_the_rest() -> None:
    device = Loudspeaker(limit=3 * PIECE)
    with Player(device) as player:
        player.write(SPEECH)
        assert device.blocked.wait(30)
        assert player.stop() == 3 * PIECE, "the piece that waits in the device was not heard"
        device.go_on()
    assert device.samples == 4 * PIECE, "no piece is written after the one that was under way"
    assert (device.ended, device.closed) == ("aborted", True)


def test_what_is_in_the_devices_buffer_was_not_heard() -> None:
    device = Loudspeaker(limit=3 * PIECE, latency=1.5 * PIECE / SAMPLE_RATE)
    with Player(device) as player:
        assert player.heard == 0
        player.write(SPEECH)
        assert device.blocked.wait(30)
        assert player.stop() == 1.5 * PIECE
        device.go_on()


def test_ctrl_c_while_the_rest_is_played_ends_the_device_at_once() -> None:
    device = Loudspeaker(limit=0)
    with pytest.raises(KeyboardInterrupt), Player(device) as player:
        player.write(SPEECH)
        assert device.blocked.wait(30)
        player.stop()
        device.go_on()
        raise KeyboardInterrupt
    assert (device.ended, device.closed, device.samples) == ("aborted", True, PIECE)


def test_a_device_that_fails_is_an_error_even_at_the_end() -> None:
    class Unplugged(Loudspeaker):
        def write(self, samples: np.ndarray) -> None:
            raise OSError("unplugged")

    device = Unplugged()
    with pytest.raises(ResourceError, match=r"the loudspeaker has failed \(unplugged\)"), Player(device) as player:
        player.write(SPEECH)
    assert (device.ended, device.closed) == ("aborted", True)


class PortAudioError(Exception):
    """As sounddevice's: of no class that Python knows."""


@pytest.mark.parametrize("call", ["write", "stop", "close"])
def test_a_device_that_fails_at_any_call_is_one_error(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first failure the others fail, too, and are not told."""

    def broken(*arguments: object) -> None:
        raise PortAudioError("device unavailable")

    device = Loudspeaker()
    for name in ("write", "stop", "abort", "close")[("write", "stop", "close").index(call) :]:
        monkeypatch.setattr(device, name, broken)
    with (
        pytest.raises(ResourceError, match=r"^the loudspeaker has failed \(device unavailable\); attach it"),
        Player(device) as player,
    ):
        player.write(SPEECH)


def test_ctrl_c_stays_ctrl_c_if_the_device_fails_then(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise PortAudioError("device unavailable")

    device = Loudspeaker()
    for name in ("abort", "close"):
        monkeypatch.setattr(device, name, broken)
    with pytest.raises(KeyboardInterrupt), Player(device):
        raise KeyboardInterrupt


def test_a_device_that_does_not_start_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    closed: list[bool] = []

    class Stream(device.OutputStream):  # type: ignore[name-defined, misc]
        def start(self) -> None:
            raise Device.PortAudioError("Device unavailable")

        def close(self) -> None:
            closed.append(True)

    device.OutputStream = Stream  # type: ignore[misc]
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with pytest.raises(ResourceError, match=r"the loudspeaker cannot be used \(Device unavailable\)"):
        Player()
    assert closed == [True]
