"""A clock that moves only when a test advances it."""


class ManualClock:
    """Has the shape of every program's clock argument."""

    def __init__(self, monotonic: float = 1000.0, now: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic
        self._now = now

    def monotonic(self) -> float:
        """Seconds since a fixed point in time."""
        return self._monotonic

    def now(self) -> float:
        """Seconds since 1970 in UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advances both times."""
        assert seconds >= 0
        self._monotonic += seconds
        self._now += seconds

    def set_back(self, seconds: float) -> None:
        """Sets the time of day back, as when a wrong clock is set."""
        assert seconds >= 0
        self._now -= seconds
