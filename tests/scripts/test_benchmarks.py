"""The table of the benchmarks' figures."""

from __future__ import annotations

from scripts.benchmarks.figures import Figure, Target, table


def test_table_has_a_row_for_each_figure_with_its_targets() -> None:
    figures = [
        Figure("rate", 1_000, "req/s", mark=Target(900, at_least=True), goal=Target(2_000, at_least=True)),
        Figure("p50", 2.5, "ms"),
    ]
    head, line, rate, p50 = table("gateway", figures).splitlines()
    assert head.split() == ["gateway", "value", "unit", "mark", "met", "goal", "met"]
    assert set(line) == {"-"}
    assert rate.split() == ["rate", "1,000", "req/s", ">=", "900", "yes", ">=", "2,000", "no"]
    assert p50.split() == ["p50", "2.50", "ms"]
