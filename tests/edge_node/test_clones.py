from __future__ import annotations

from edge_node.clones import MAX_CONFLICTS, Clones
from tests.edge_node.outgoing_messages import BOOT, status


def reconnected(clones: Clones, *, taken_over: bool = False) -> None:
    clones.connected(ours_before=True, taken_over=taken_over)


def test_live_only_what_is_online_beside_us_is_another_computer() -> None:
    clones = Clones(BOOT)
    clones.connected(ours_before=False, taken_over=False)
    assert not clones.hear(status(), 0.0, retained=False)
    assert not clones.hear(status("offline", boot_id="other"), 0.0, retained=False)  # a will that comes late
    assert not clones.hear(status("stopped", boot_id="other"), 0.0, retained=False)
    assert clones.conflicts == ()
    assert clones.hear(status(boot_id="other"), 0.0, retained=False)
    assert clones.hear(status(boot_id="other"), 0.0, retained=False)
    assert (clones.conflicts, clones.n_heard) == (("other",), 2)


def test_what_is_retained_at_first_is_our_predecessors() -> None:
    clones = Clones(BOOT)
    for state in ("online", "offline", "stopped"):  # also when we were cut off before we had said a word
        clones.connected(ours_before=False, taken_over=False)
        assert not clones.hear(status(state, boot_id="before"), 0.0, retained=True)
    assert clones.conflicts == ()


def test_what_another_boot_left_since_we_spoke_is_a_conflict() -> None:
    for state in ("online", "offline", "stopped"):
        clones = Clones(BOOT)
        clones.connected(ours_before=False, taken_over=False)
        assert not clones.hear(status("offline", boot_id="before"), 0.0, retained=True)
        reconnected(clones)
        assert not clones.hear(status("offline"), 0.0, retained=True)  # our own last will
        reconnected(clones)
        assert clones.hear(status(state, boot_id="other"), 0.0, retained=True)
        assert clones.conflicts == ("other",)


def test_a_predecessor_is_excused_once() -> None:
    """Its last will came late, or the broker came back with an old memory; it does not come again and again."""
    clones = Clones(BOOT)
    clones.connected(ours_before=False, taken_over=False)
    assert not clones.hear(status(boot_id="before"), 0.0, retained=True)
    reconnected(clones)
    assert not clones.hear(status("offline", boot_id="before"), 0.0, retained=True)
    reconnected(clones)
    assert clones.hear(status("offline", boot_id="before"), 0.0, retained=True)
    assert clones.conflicts == ("before",)


def test_no_excuse_for_who_took_our_connection_over() -> None:
    clones = Clones(BOOT)
    clones.connected(ours_before=False, taken_over=False)
    assert not clones.hear(status(boot_id="before"), 0.0, retained=True)
    reconnected(clones, taken_over=True)
    assert clones.hear(status("offline", boot_id="before"), 0.0, retained=True)


def test_boot_ids_are_bounded_and_what_was_heard_is_counted() -> None:
    clones = Clones(BOOT)
    for i in range(MAX_CONFLICTS + 5):
        assert clones.hear(status(boot_id=f"b{i}"), 0.0, retained=False)
    assert len(clones.conflicts) == MAX_CONFLICTS
    assert clones.n_heard == MAX_CONFLICTS + 5


def test_who_is_not_heard_any_more_is_gone_and_stays_counted() -> None:
    clones = Clones(BOOT)
    assert clones.hear(status(boot_id="one"), 10.0, retained=False)
    assert clones.hear(status(boot_id="other"), 20.0, retained=False)
    clones.forget(10.0)
    assert clones.conflicts == ("one", "other")
    assert clones.hear(status(boot_id="one"), 30.0, retained=False)
    clones.forget(25.0)
    assert (clones.conflicts, clones.n_heard) == (("one",), 3)
    clones.forget(31.0)
    assert clones.conflicts == ()
    assert clones.hear(status(boot_id="other"), 40.0, retained=False)  # back again
    assert (clones.conflicts, clones.n_heard) == (("other",), 4)


def test_there_is_room_again_once_others_are_gone() -> None:
    clones = Clones(BOOT)
    for i in range(MAX_CONFLICTS + 1):
        clones.hear(status(boot_id=f"b{i}"), float(i), retained=False)
    clones.hear(status(boot_id="b0"), 20.0, retained=False)  # known, so heard although there is no room
    clones.forget(19.0)
    assert clones.conflicts == ("b0",)
    clones.hear(status(boot_id="new"), 21.0, retained=False)
    assert clones.conflicts == ("b0", "new")
