"""Invented counts of predicates to divide into groups."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[int], int, int]:
    """Counts (zeros and ties among them), G <= P and Q >= G."""
    counts = draw(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(lambda c: sum(c) > 0))
    num_groups = draw(st.integers(1, len(counts)))
    return counts, num_groups, draw(st.integers(num_groups, 400))
