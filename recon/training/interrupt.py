"""SIGTERM and Ctrl-C ask the loop to save and end; a second one ends a process that is alone at once."""

import signal
from types import FrameType
from typing import Self


class Interrupt:
    """`with Interrupt() as stop:` sets `stop.signal` to the number of the first SIGTERM or SIGINT.

    `patient` is deaf to a second one, and to any after an error: torchrun passes on what a process may have heard
    already, asks those to end that are about to say why, and kills in the end.
    """

    signal: int | None = None

    def __init__(self, patient: bool = False):
        self.patient = patient

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self.patient and (self.signal or error):
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        if self.patient:
            return
        for each, handler in self._before.items():
            signal.signal(each, handler)
