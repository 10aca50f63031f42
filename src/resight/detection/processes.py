"""What the processes that share a batch must agree on inside of a model; one process alone agrees with itself."""

from collections.abc import Sequence


class Shared:
    def counts(self, counts: Sequence[float]) -> list[float]:
        """What losses are divided by here, so that the mean of all gradients is that of one process alone."""
        return list(counts)

    def largest(self, height: int, width: int) -> tuple[int, int]:
        """The size that all images of the batch are padded to."""
        return height, width


SINGLE_PROCESS = Shared()
