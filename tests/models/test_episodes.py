"""The alerting machine, window by window, and the count of its episodes against it."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import codec
from models.episode_counts import count_episodes
from models.episodes import AlertPolicy, Episodes, EpisodesState, Transition
from models.messages import Severity, episode_id
from models.signal import NS_PER_S

S = NS_PER_S
PLAIN = AlertPolicy(cooldown_s=0, update_s=1e6)
SIZES = {"#": 3.0, "b": 3.0, "+": 5.9, "!": 6.0}


def play(
    machine: Episodes, line: str, *, first: int = 0, step_s: int = 10, window_s: int = 10
) -> list[tuple[int, Transition]]:
    """Show the machine one window a character, its index with each transition: ``#`` above (``+`` nearly twice as far,
    ``!`` twice as far and critically, ``b`` blaming another channel), ``-`` between the levels, ``.`` below; a blank is
    time without a window."""
    found = []
    for i, mark in enumerate(line, first):
        if mark == " ":
            continue
        severity: Severity = "critical" if mark == "!" else "warning"
        end_ns = (i + 1) * step_s * S
        above, detail = mark in SIZES, "b" if mark == "b" else "a"
        change = machine.step(
            end_ns - window_s * S, end_ns, above, mark == ".", severity, detail, SIZES.get(mark, 0.0)
        )
        if change is not None:
            found.append((i, change))
    return found


def story(policy: AlertPolicy, line: str, *, gap_s: int | None = None) -> str:
    """What was said, under each window: r(aised), u(pdated), c(leared), or a blank."""
    gap_ns = None if gap_s is None else gap_s * S
    said = dict(play(Episodes(policy, 10 * S, gap_ns), line))
    return "".join(said[i].state[0] if i in said else " " for i in range(len(line))).rstrip()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("..##.##.#.", ""),  # never three in a row
        ("..###", "    r"),
        ("..###...", "    r  c"),
        ("..###..#..-...", "    r        c"),  # above, or between the levels, starts the count again
        ("..###------", "    r"),
        ("--.-.--", ""),
        ("###...###...", "  r  c  r  c"),
        ("##.#.#.#.#", ""),
    ],
)
def test_three_in_a_row_raise_and_three_below_clear(line: str, said: str) -> None:
    assert story(PLAIN, line) == said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("#.#...#", ""),
        ("#.#.#", "    r"),  # 3 of 5, not in a row
        ("##....#", ""),  # the first two are forgotten by then
        ("#..##", "    r"),
        ("##..-#", ""),
    ],
)
def test_n_of_m(line: str, said: str) -> None:
    policy = msgspec.structs.replace(PLAIN, n_raise=3, m_raise=5)
    assert story(policy, line) == said


def test_an_alert_is_raised_by_a_window_above_and_never_by_one_below() -> None:
    policy = msgspec.structs.replace(PLAIN, n_raise=2, m_raise=4, min_duration_s=40)
    assert story(policy, "##...") == ""
    assert story(policy, "##...#") == ""  # only one of the last four
    assert story(policy, "##..#") == "    r"
    assert story(policy, "##.#.") == "   r"


def test_minimum_duration_counts_a_hop_a_window_from_the_first_above() -> None:
    for n in (1, 3, 4, 6):
        policy = msgspec.structs.replace(PLAIN, min_duration_s=10 * n)
        assert story(policy, "..########") == " " * (2 + max(n, 3) - 1) + "r"
    # Just more than five hops are six.
    assert story(msgspec.structs.replace(PLAIN, min_duration_s=50.001), "########") == "     r"


def test_minimum_duration_starts_anew_once_the_first_windows_are_forgotten() -> None:
    policy = msgspec.structs.replace(PLAIN, n_raise=1, m_raise=2, min_duration_s=40)
    assert story(policy, "#.#.#") == "    r"
    assert story(policy, "#..#.#") == ""
    assert story(policy, "#..#.#.#") == "       r"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("###...###....", "  r  c"),
        ("###...#!#", "  r  c  r"),  # twice as great as all of the one before
        ("###...#+#", "  r  c"),
        ("###...##.#!#", "  r  c     r"),
        ("###...!#...###", "  r  c"),  # it did not last, and those after it are as before
        ("###...###!", "  r  c   r"),
        ("#+#...#!#", "  r  c"),
        ("###..!...#!#", "  r     c"),  # it had become as great as this
    ],
)
def test_a_much_worse_one_does_not_wait_for_the_cooldown(line: str, said: str) -> None:
    policy = msgspec.structs.replace(PLAIN, cooldown_s=500)
    assert story(policy, line).replace("u", " ") == said
    above = np.array([mark in SIZES for mark in line])
    sizes = np.array([SIZES.get(mark, 0.0) for mark in line])
    below = np.array([mark == "." for mark in line])
    assert count_episodes(above, below, policy, 10 * S, sizes=sizes) == said.count("r")
    assert count_episodes(above, below, policy, 10 * S) == 1  # nobody knows how great they are


def test_cooldown_counts_from_clearing_and_what_lasts_is_raised_when_it_ends() -> None:
    policy = msgspec.structs.replace(PLAIN, cooldown_s=80)
    assert story(policy, "###...###...###") == "  r  c        r"  # a short one is swallowed
    assert story(policy, "###...###########") == "  r  c       r"  # a lasting one is not
    machine = Episodes(policy, 10 * S)
    changes = [change for _, change in play(machine, "###...###########")]
    # It says when it began, not when the rest ended.
    assert [c.start_ns for c in changes] == [0, 0, 60 * S]


def test_an_episode_starts_with_its_first_window_and_ends_with_its_last_so_far() -> None:
    machine = Episodes(msgspec.structs.replace(PLAIN, n_raise=3, m_raise=5), 10 * S)
    (_, raised), (_, cleared) = play(machine, ".#.##...", window_s=60)
    assert (raised.state, raised.seq, raised.start_ns, raised.end_ns) == ("raised", 0, -40 * S, 50 * S)
    assert (cleared.state, cleared.seq, cleared.start_ns, cleared.end_ns) == ("cleared", 1, -40 * S, 80 * S)


def test_severity_is_the_worst_so_far_and_a_rise_is_told_at_once() -> None:
    found = play(Episodes(PLAIN, 10 * S), "####!#!#...")
    assert [(i, c.state, c.severity) for i, c in found] == [
        (2, "raised", "warning"),
        (4, "updated", "critical"),
        (10, "cleared", "critical"),
    ]
    assert play(Episodes(PLAIN, 10 * S), "!##")[0][1].severity == "critical"
    # What was forgotten before does not count.
    assert play(Episodes(PLAIN, 10 * S), "!...###")[0][1].severity == "warning"


def test_updates_are_paced() -> None:
    policy = msgspec.structs.replace(PLAIN, update_s=50)
    assert story(policy, "###" + "#" * 12 + "...") == "  r    u    u    c"
    seqs = [c.seq for _, c in play(Episodes(policy, 10 * S), "###" + "#" * 12 + "...")]
    assert seqs == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("hop_s", "every"), [(10, 60), (60, 10), (120, 10), (3600, 10)], ids=["10 s", "1 min", "2 min", "1 h"]
)
def test_by_default_an_open_episode_is_updated_every_ten_minutes_or_ten_windows(
    hop_s: int, every: int
) -> None:
    machine = Episodes(AlertPolicy(), hop_s * S)
    windows = range(every * 3 + 3)
    said = [machine.step(i * hop_s * S, (i + 1) * hop_s * S, True, False, "warning", "a") for i in windows]
    told = [(i, change.state) for i, change in enumerate(said) if change is not None]
    assert told == [(2, "raised"), *((2 + every * k, "updated") for k in (1, 2, 3))]


def test_another_channel_is_told_once_it_clearly_dominates() -> None:
    """It may take the place of the first where two thirds of the windows since the last message blame it."""
    machine = Episodes(msgspec.structs.replace(PLAIN, update_s=100), 10 * S)
    found = play(machine, "###" + "####b#bbbb" + "bbbb#b#bbb" + "##--------")
    assert [(i, c.state, c.detail) for i, c in found] == [
        (2, "raised", "a"),
        (12, "updated", "a"),  # only half of them
        (22, "updated", "b"),
        (32, "updated", "b"),  # two windows above are fewer than n_raise
    ]


def test_a_rise_of_severity_is_told_at_once_with_who_dominates() -> None:
    machine = Episodes(msgspec.structs.replace(PLAIN, update_s=1000), 10 * S)
    found = play(machine, "###bbbbbbbbb!bbbb")
    assert [(i, c.state, c.detail, c.severity) for i, c in found] == [
        (2, "raised", "a", "warning"),
        (12, "updated", "b", "critical"),
    ]


@pytest.mark.parametrize("blame", ["b#", "bb##", "bbb###", "bbbb####", "bbbbb#####", "b#bb##bbb###"])
def test_blame_that_fluctuates_is_no_news(blame: str) -> None:
    """Two channels that take turns: one update every update_s, and all of them blame whom the first blamed."""
    policy = msgspec.structs.replace(PLAIN, update_s=600)
    found = play(Episodes(policy, 10 * S), "###" + (blame * 600)[:600])
    assert [i for i, _ in found] == [2 + 60 * k for k in range(11)]
    assert {c.detail for _, c in found} == {"a"}


def test_blame_at_random_is_no_news() -> None:
    policy = msgspec.structs.replace(PLAIN, update_s=600)
    line = "".join(np.random.default_rng(0).choice(["b", "#"], 6000))
    found = play(Episodes(policy, 10 * S), "###" + line)
    assert len(found) == 101
    changes = sum(a.detail != b.detail for (_, a), (_, b) in pairwise(found))
    assert changes <= 4


def test_what_is_forming_does_not_outlast_a_gap_but_an_open_episode_does() -> None:
    assert story(PLAIN, "##     #", gap_s=40) == ""
    assert story(PLAIN, "##   #", gap_s=40) == "     r"
    assert story(PLAIN, "##     #") == "       r"
    # Open: frozen, and cleared by three windows in a row after it.
    assert story(PLAIN, "###..     ..  .#...", gap_s=40) == "  r           c"
    assert story(PLAIN, "###..     ..-...", gap_s=40) == "  r            c"
    assert story(PLAIN, "###..     .", gap_s=40) == "  r"


def test_a_policy_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="4 of 3 windows"):
        Episodes(AlertPolicy(n_raise=4, m_raise=3), S)


def test_ids_are_a_function_of_who_what_and_when() -> None:
    first, again = (play(Episodes(PLAIN, 10 * S), "..###")[0][1] for _ in range(2))
    name = episode_id("gw", "press-4", "machine", first.start_ns)
    assert name == episode_id("gw", "press-4", "machine", again.start_ns) == "3fcc1bb674cb65eb"
    others = {
        episode_id("gw2", "press-4", "machine", first.start_ns),
        episode_id("gw", "press-5", "machine", first.start_ns),
        episode_id("gw", "press-4", "limit", first.start_ns),
        episode_id("gw", "press-4", "machine", first.start_ns + 1),
        episode_id("gw", "press-4", "machine", first.start_ns, "x"),
    }
    assert len(others | {name}) == 6


policies = st.builds(
    AlertPolicy,
    n_raise=st.integers(1, 4),
    m_raise=st.integers(4, 6),
    n_clear=st.integers(1, 4),
    min_duration_s=st.sampled_from([0, 1, 25, 30, 64]),
    cooldown_s=st.sampled_from([0, 1, 35, 40, 111]),
    update_s=st.sampled_from([5, 40, 1000]),
)
# Runs rather than single windows, else nothing long ever happens.
lines = st.lists(st.tuples(st.sampled_from("#+!b-."), st.integers(1, 6)), max_size=30).map(
    lambda runs: "".join(mark * n for mark, n in runs)
)


@settings(max_examples=300)
@given(policies, lines, st.data())
def test_state_can_be_carried_anywhere(policy: AlertPolicy, line: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(line)))
    whole = play(Episodes(policy, 10 * S, 60 * S), line)
    first = Episodes(policy, 10 * S, 60 * S)
    before = play(first, line[:cut])
    packed = codec.pack_state(first.state())
    second = Episodes(policy, 10 * S, 60 * S)
    second.restore(codec.unpack_state(packed, EpisodesState))
    assert before + play(second, line[cut:], first=cut) == whole
    # A state handed out is a copy.
    assert codec.pack_state(first.state()) == packed


@settings(max_examples=300)
@given(policies, lines)
def test_every_episode_is_told_in_order(policy: AlertPolicy, line: str) -> None:
    found = [c for _, c in play(Episodes(policy, 10 * S), line)]
    states = "".join(c.state[0] for c in found)
    assert all(part.startswith("r") and "r" not in part[1:] for part in states.split("c") if part)
    assert "cc" not in states
    assert not states.startswith(("u", "c"))
    starts = [c.start_ns for c in found if c.state == "raised"]
    assert starts == sorted(set(starts))
    for c in found:
        assert c.start_ns < c.end_ns
    expected_seq = -1
    for c in found:
        expected_seq = 0 if c.state == "raised" else expected_seq + 1
        assert c.seq == expected_seq


@settings(max_examples=1500)
@given(
    policies,
    lines,
    st.sampled_from([10, 3, 17]),
    st.lists(st.integers(1, 60), max_size=4, unique=True),
)
def test_counting_is_what_the_machine_does(
    policy: AlertPolicy, line: str, hop_s: int, cuts: list[int]
) -> None:
    breaks = sorted(c for c in cuts if c < len(line))
    machine = Episodes(policy, hop_s * S)
    n = 0
    for begin, end in zip([0, *breaks], [*breaks, len(line)], strict=True):
        machine.reset()
        n += sum(c.state == "raised" for _, c in play(machine, line[begin:end]))
    above = np.array([mark in SIZES for mark in line], dtype=bool)
    below = np.array([mark == "." for mark in line], dtype=bool)
    sizes = np.array([SIZES.get(mark, 0.0) for mark in line])
    at = np.array(breaks, dtype=np.int64)
    assert count_episodes(above, below, policy, hop_s * S, at, 10 * S, sizes) == n


def test_counting_a_million_windows_finds_every_episode() -> None:
    above = np.zeros(1_000_000, bool)
    for k in range(3):
        above[k::100] = True
    assert count_episodes(above, ~above, PLAIN, 10 * S) == 10_000
    assert count_episodes(above, ~above, msgspec.structs.replace(PLAIN, cooldown_s=995), 10 * S) == 5_000
    assert count_episodes(np.zeros(0, bool), np.zeros(0, bool), PLAIN, 10 * S) == 0


def test_a_clock_that_was_set_back_holds_no_alert_back() -> None:
    """Neither the rest after the last alert nor the pace of updates lasts for as long as the clock was ahead."""
    policy = AlertPolicy(cooldown_s=100, update_s=100)
    machine = Episodes(policy, 10 * S)
    ahead = 100_000
    assert [t.state for _, t in play(machine, "###...", first=ahead)] == ["raised", "cleared"]
    assert [t.state for _, t in play(machine, "###", first=0)] == ["raised"]
    machine = Episodes(policy, 10 * S)
    play(machine, "###", first=ahead)
    told = play(machine, "#" * 25 + "...", first=0)
    assert [t.state for _, t in told] == ["updated", "updated", "cleared"]
    assert [i for i, _ in told] == [10, 20, 27]
