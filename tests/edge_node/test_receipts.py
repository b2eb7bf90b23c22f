"""When a message at QoS 1 is acknowledged, and which ones are taken twice: never."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_node.sources.receipts import Receipts, digest_of


def test_acknowledged_in_order_once_committed() -> None:
    receipts = Receipts()
    receipts.connected(session_present=False)
    for mid, ticket in ((1, 10), (2, 0), (3, 20)):
        receipts.take(mid, b"%d" % mid, ticket)
    assert receipts.due() == []  # 2 brought no block, but goes after 1
    assert receipts.n_waiting == 2
    receipts.commit(10)
    assert receipts.due() == [1, 2]
    receipts.commit(25)
    assert receipts.due() == [3]
    assert receipts.due() == []


def test_what_a_crash_left_unacknowledged_is_not_taken_twice() -> None:
    before = Receipts()
    before.connected(session_present=False)
    before.take(1, digest_of("t", b"one"), 10)
    before.take(2, digest_of("t", b"two"), 20)
    after = Receipts(before.marks(10))  # the checkpoint contains the first only
    after.connected(session_present=True)
    assert after.came_again(1, digest_of("t", b"one"), dup=True)
    assert not after.came_again(2, digest_of("t", b"two"), dup=True)
    assert after.due() == [1]


def test_a_packet_id_is_used_again() -> None:
    receipts = Receipts({1: digest_of("t", b"one")})
    receipts.connected(session_present=True)
    assert not receipts.came_again(1, digest_of("t", b"other"), dup=True)
    assert not receipts.came_again(1, digest_of("t", b"one"), dup=False)
    receipts.take(1, digest_of("t", b"other"), 5)
    assert receipts.due() == []


def test_nothing_is_acknowledged_to_a_connection_that_did_not_bring_it() -> None:
    receipts = Receipts()
    receipts.connected(session_present=False)
    receipts.take(1, b"1", 1)
    receipts.commit(1)
    receipts.connected(session_present=True)
    assert receipts.due() == []
    assert receipts.came_again(1, b"1", dup=True)
    assert receipts.due() == [1]
    receipts.connected(session_present=True)
    assert receipts.came_again(1, b"1", dup=True)  # the acknowledgement was lost with the connection
    assert receipts.due() == [1]
    receipts.take(1, b"2", 2)  # the packet id is another message's now
    assert not receipts.came_again(1, b"1", dup=True)


def test_what_may_come_again_is_bounded() -> None:
    receipts = Receipts(ahead=3)
    receipts.connected(session_present=False)
    for mid in range(1, 8):
        receipts.take(mid, b"%d" % mid, 0)
    assert receipts.due() == [*range(1, 8)]
    assert sorted(receipts.marks(0)) == [5, 6, 7]


def test_without_its_session_the_broker_brings_nothing_again() -> None:
    receipts = Receipts({1: b"1"})
    receipts.connected(session_present=False)
    assert not receipts.came_again(1, b"1", dup=True)
    assert receipts.marks(100) == {}


@given(
    st.lists(
        st.one_of(st.just("take"), st.just("commit"), st.just("reconnect"), st.sampled_from(["ack", "lose"])),
        max_size=60,
    )
)
def test_a_broker_that_brings_all_again_is_taken_once(steps: list[str]) -> None:
    """A model of a broker: in order, with packet ids of its own, everything unacknowledged again after a reconnect."""
    receipts = Receipts(ahead=60)
    receipts.connected(session_present=False)
    unacknowledged: list[int] = []
    taken: list[int] = []
    committed = 0
    for mid, step in enumerate(steps, 1):
        if step == "take":
            unacknowledged.append(mid)
            taken.append(mid)
            receipts.take(mid, b"%d" % mid, len(taken))
        elif step == "commit":
            committed = len(taken)
            receipts.commit(committed)
        elif step == "ack":
            due = receipts.due()
            assert due == unacknowledged[: len(due)]
            assert set(due) <= set(taken[:committed])
            del unacknowledged[: len(due)]
        elif step == "lose":  # the acknowledgements do not arrive
            receipts.due()
            receipts.connected(session_present=True)
            assert all(receipts.came_again(mid, b"%d" % mid, dup=True) for mid in unacknowledged)
        else:
            receipts.connected(session_present=True)
            assert all(receipts.came_again(mid, b"%d" % mid, dup=True) for mid in unacknowledged)
    receipts.commit(len(taken))
    assert receipts.due() == unacknowledged


def test_a_message_of_several_blocks_is_not_cut() -> None:
    receipts = Receipts()
    receipts.connected(session_present=False)
    assert not receipts.splits(0)
    receipts.begin()
    assert receipts.splits(0)  # how many blocks it has nobody knows yet
    receipts.take(1, b"1", 7, 5)
    assert [receipts.splits(ticket) for ticket in (4, 5, 6, 7)] == [False, True, True, False]
