"""A clock that stands until a test moves it."""


class ManualClock:
    """Has the shape of every program's clock argument."""

    def __init__(self, monotonic: float = 1000.0, now: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._now = now

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return self._monotonic

    def now(self) -> float:
        """Seconds since 1970 in UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Lets time pass, on both scales."""
        assert seconds >= 0
        self._monotonic += seconds
        self._now += seconds
