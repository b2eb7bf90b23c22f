"""How many episodes a series of windows holds: what :class:`models.episodes.Episodes` would raise, without stepping.

An alert level is found by counting at hundreds of levels over a million windows, of which few are anything
but below: so the count works on the places of those few. Pure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.episodes import AlertPolicy
from models.signal import NS_PER_S

Places = NDArray[np.int64]


def count_episodes(
    above: NDArray[np.bool_],
    below: NDArray[np.bool_],
    policy: AlertPolicy,
    hop_ns: int,
    breaks: NDArray[np.integer] | None = None,
    step_ns: int | None = None,
    sizes: NDArray[np.floating] | None = None,
) -> int:
    """How many episodes the machine raises over windows ``above``, ``below`` bool[w] (never both) of ``sizes`` float[w] (None:
    nobody knows).

    Windows end ``step_ns`` apart (``hop_ns`` where None). ``breaks``: ascending indices of windows before
    which the series is not contiguous; nothing carries over them.
    """
    above_at, held_at = np.flatnonzero(above).astype(np.int64), np.flatnonzero(~below).astype(np.int64)
    above_sizes = None if sizes is None else np.asarray(sizes, np.float64)[above_at]
    return count_episodes_at(above_at, held_at, above.size, policy, hop_ns, breaks, step_ns, above_sizes)


def count_episodes_at(
    above_at: Places,
    held_at: Places,
    n_windows: int,
    policy: AlertPolicy,
    hop_ns: int,
    breaks: NDArray[np.integer] | None = None,
    step_ns: int | None = None,
    sizes: NDArray[np.float64] | None = None,
) -> int:
    """:func:`count_episodes`, given the ascending indices ``above_at`` of the windows above, with the ``sizes`` of these, and
    ``held_at`` of those not below, among ``n_windows``."""
    inner = np.zeros(0, np.int64) if breaks is None else np.asarray(breaks, dtype=np.int64)
    edges = np.concatenate([[0], inner, [n_windows]])
    above_edges, held_edges = np.searchsorted(above_at, edges), np.searchsorted(held_at, edges)
    known = np.zeros(above_at.size) if sizes is None else sizes
    count = 0
    for i in np.flatnonzero(np.diff(above_edges) >= policy.n_raise).tolist():
        above = above_at[above_edges[i] : above_edges[i + 1]] - edges[i]
        held = held_at[held_edges[i] : held_edges[i + 1]] - edges[i]
        length = int(edges[i + 1] - edges[i])
        size = known[above_edges[i] : above_edges[i + 1]]
        count += _count(above, held, size, length, policy, hop_ns, hop_ns if step_ns is None else step_ns)
    return count


def _count(
    above: Places,
    held: Places,
    size: NDArray[np.float64],
    w: int,
    policy: AlertPolicy,
    hop_ns: int,
    step_ns: int,
) -> int:
    n, m = policy.n_raise, policy.m_raise
    min_ns, cooldown_ns = round(policy.min_duration_s * NS_PER_S), round(policy.cooldown_s * NS_PER_S)
    min_steps, rest_steps = -(-max(min_ns - hop_ns, 0) // step_ns), -(-cooldown_ns // step_ns)
    # Runs of windows above with so little between them that the machine forgets nothing.
    run_starts = np.flatnonzero(np.diff(above, prepend=-m - 1) > m)
    first_of_run = np.repeat(above[run_starts], np.diff(run_starts, append=above.size))
    enough = np.zeros(above.size, np.bool_)
    enough[n - 1 :] = above[n - 1 :] - above[: above.size - n + 1] < m
    enough_at = np.flatnonzero(enough)
    ready_at = np.flatnonzero(enough & (above - first_of_run >= min_steps))
    # Windows not below that are followed by enough that are.
    free_at = np.flatnonzero(np.diff(held, append=w) > policy.n_clear)

    def raised(first: int, least: int) -> int | None:
        """The first place in ``above`` from ``least`` on at which an episode is raised, where nothing before ``first`` counts
        any more."""
        later = np.searchsorted(run_starts, first, side="right")
        run_end = int(run_starts[later]) if later < run_starts.size else above.size
        # In the run that a clearing cut, what is forming began at ``first``.
        lasted = int(np.searchsorted(above, above[first] + min_steps))
        r = _next(enough_at, max(first + n - 1, least, lasted))
        return r if r is not None and r < run_end else _next(ready_at, max(run_end, least))

    def forming_from(place: int, first: int) -> int:
        """Where what is forming at ``place`` began."""
        return max(first, int(run_starts[np.searchsorted(run_starts, place, side="right") - 1]))

    count = 0
    first = 0  # in ``above``: nothing before it counts any more
    rested = 0  # in ``above``: the first after the cooldown
    before = 0.0  # size of the episode that was cleared last
    while first < above.size:
        r = raised(first, max(first, rested))
        if before > 0.0:  # one that is so much worse does not wait
            for c in (np.flatnonzero(size[first:rested] >= policy.worse_ratio * before) + first).tolist():
                sooner = raised(first, c)
                if sooner is not None and forming_from(sooner, first) <= c and (r is None or sooner < r):
                    r = sooner
                    break
        if r is None:
            return count
        count += 1
        k = _next(free_at, int(np.searchsorted(held, above[r])))
        if k is None:
            return count
        cleared = int(held[k]) + policy.n_clear
        began, first = forming_from(r, first), int(np.searchsorted(above, cleared, side="right"))
        before = float(size[began:first].max())
        rested = int(np.searchsorted(above, cleared + rest_steps))
    return count


def _next(places: NDArray[np.intp], least: int) -> int | None:
    i = int(np.searchsorted(places, least))
    return int(places[i]) if i < places.size else None
