"""What is pushed at once completes a bounded number of windows, and holds every row in its order."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_node.portions import Portion
from models.signal import NS_PER_S, Mode, SampleBlock, WindowSpec
from models.windowing import Windower
from tests.edge_node.plant import TIME, device, healthy, plan

HOLD_S = 40


@given(
    gaps=st.lists(st.sampled_from((0, 1, 2, 30, 100, 5000)), min_size=1, max_size=200),
    most=st.integers(1, 50),
)
def test_portions_of_irregular_rows(gaps: list[int], most: int) -> None:
    n = len(gaps)
    times = (np.cumsum(gaps) + 1_700_000_000) * NS_PER_S
    spec = WindowSpec(n=2, hop=1, rate_hz=Fraction(1), mode=Mode.IRREGULAR)
    time = msgspec.structs.replace(TIME, hold_s=HOLD_S, min_valid=0.0, max_age_s=None)
    pump = plan(device("d", mode=Mode.IRREGULAR), spec, time=time)
    portion = Portion.of(pump, most)
    whole = SampleBlock.irregular(
        "d", ("Pressure", "Current"), healthy(n), time_ns=times, arrival_ns=int(times[-1])
    )
    pieces = portion.cut(whole)
    assert b"".join(p.values.tobytes() for p in pieces) == whole.values.tobytes()
    windower = Windower(pump.device, pump.window, pump.time)
    for piece in pieces:
        assert piece.n == 1 or portion.size(piece) <= portion.most + HOLD_S
        windower.push(piece)
        # what it completes: its own samples, and those that the row before it is held for
        assert sum(batch.n for batch in windower.take()) <= portion.most + 2 * HOLD_S + 3


@given(n=st.integers(0, 300), most=st.integers(1, 50))
def test_portions_of_uniform_rows(n: int, most: int) -> None:
    portion = Portion.of(
        plan(device("d"), WindowSpec(n=2, hop=1, rate_hz=Fraction(1), mode=Mode.CONTINUOUS)), most
    )
    whole = SampleBlock.uniform(
        "d", ("Pressure", "Current"), healthy(n), start_ns=0, rate_hz=Fraction(1), arrival_ns=0
    )
    pieces = portion.cut(whole)
    assert b"".join(p.values.tobytes() for p in pieces) == whole.values.tobytes()
    assert all(portion.size(p) <= portion.most for p in pieces)
