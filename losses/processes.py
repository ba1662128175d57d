"""How an objective hears of the other processes that have their parts of the same batch."""

from collections.abc import Sequence

from torch import Tensor


class Processes:
    """One process that has the whole batch. Where several share it, a subclass tells their number and adds up."""

    count = 1

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replaces each tensor, in place, by its sum over all processes; all of them call it, in the same order."""


ALONE = Processes()
