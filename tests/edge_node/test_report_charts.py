"""Outlines as paths: areas are closed, lines enclose nothing, dots are seen."""

from __future__ import annotations

import numpy as np

from edge_node.report.axes import Scale, Span
from edge_node.report.charts import HEIGHT, WIDTH, merged, shapes
from edge_node.report.envelope import Outline

SPAN = Span(0, WIDTH)


def outline(times: list[int], low: list[float], high: list[float], fresh: list[int]) -> Outline:
    starts = np.isin(np.arange(len(times)), fresh)
    return Outline(np.array(times, np.int64), np.array(low), np.array(high), starts)


def test_an_area_goes_there_by_the_greatest_and_back_by_the_least() -> None:
    areas, lines = shapes(outline([0, 10, 20], [1, 0, 1], [1, 2, 1], [0]), Scale(0, HEIGHT), SPAN)
    assert areas == "M0 999l10 -1l10 1L20 999l-10 1l-10 -1z"
    assert lines == ""


def test_what_is_one_value_is_a_line_and_what_stands_alone_a_dot() -> None:
    of = outline([0, 10, 500, 900, 910], [1, 2, 3, 4, 4], [1, 2, 3, 4, 5], [0, 2, 3])
    areas, lines = shapes(of, Scale(0, HEIGHT), SPAN)
    assert lines == "M0 999l10 -1M500 997h0"
    assert areas == "M900 996l10 -1L910 996l-10 0z"


def test_what_lies_beyond_an_axis_is_drawn_at_its_end() -> None:
    of = outline([-5, WIDTH + 5], [-10, 1], [-10, 3 * HEIGHT], [0])
    assert (
        shapes(of, Scale(0, HEIGHT), SPAN)[0]
        == f"M0 {HEIGHT}l{WIDTH} -{HEIGHT}L{WIDTH} {HEIGHT - 1}l-{WIDTH} 1z"
    )
    assert shapes(outline([], [], [], []), Scale(0, 1), SPAN) == ("", "")


def test_what_meets_is_one() -> None:
    assert merged([(5, 7), (1, 3), (3, 4), (6, 6)]) == [(1, 4), (5, 7)]
    assert merged([]) == []
