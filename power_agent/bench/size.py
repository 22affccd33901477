"""How much is measured: as promised, or so little that a test can see every workload run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """The numbers of every workload."""

    commits: int = 200
    turns: int = 40
    grown: int = 1_900
    last: int = 100
    few: int = 64
    many: int = 512
    turns_at_once: int = 4
    naps: int = 3
    """Turns a round whose calls sleep: each is over soon, and what the disk takes for its commits differs."""
    loaded: int = 2_000
    """Turns of four messages each."""
    folded: int = 200
    """Turns of the shorter one of two sessions whose past was folded away."""
    bound_tokens: int = 4_000
    """Above this their context is made smaller."""
    pieces: int = 10_000
    recovered: tuple[int, ...] = (1_000, 10_000)
    forked: int = 20_000
    forks: int = 40
    followed: int = 40
    remembered: int = 2_000
    written: int = 1_000


FULL = Size()
TINY = Size(
    commits=2,
    turns=1,
    grown=2,
    last=2,
    few=3,
    many=4,
    turns_at_once=1,
    naps=1,
    loaded=4,
    folded=3,
    bound_tokens=200,
    pieces=40,
    recovered=(20,),
    forked=20,
    forks=2,
    followed=2,
    remembered=2,
    written=2,
)
EVENTS_PER_TURN = 9
