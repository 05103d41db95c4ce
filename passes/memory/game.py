"""Planning as a game: buffers are placed one at a time, and the score is the height in the end.

After "Optimizing Memory Mapping Using Deep Reinforcement Learning" (mallocMuZero), at a modest scale: a move places a
buffer at the lowest address above all that share its lifetime; games are played by a beam of positions, to which a
linear policy proposes moves and of which a linear value keeps the most promising. Both learn from the games played on
the problem at hand: the value by ridge regression of the best height that was reached from a position, the policy by
evolution, new games being played with what played the best ones, varied. It proves nothing; the seed decides all games,
the time how many are played.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from passes.memory import greedy
from passes.memory.bounds import conclude, lower_bound
from passes.memory.problem import Offsets, Plan, Problem, sections

_Array = npt.NDArray[Any]

#: Positions that are kept after each move, and moves that are looked at in each.
_WIDTH, _BRANCH = 16, 4
#: Games of which the policies are varied, by how much, and how often a new one is drawn instead.
_ELITE, _VARIATION, _FRESH = 8, 0.3, 0.2
#: The scale of each weight of the policy when it is drawn: of the logarithms of size and lifetime, of the pressure of
#: the sections, of what is wasted below, of the sides that are flush.
_SCALES = np.array([1.0, 1.0, 2.0, 8.0, 1.0])
#: Of the value before it has seen a game: the height that the fullest section is sure to reach.
_FIRST_VALUE = np.array([0.0, 1.0, 0.05, 0.0, 0.0, 0.2, 0.0])
_RIDGE = 1.0


def solve(problem: Problem, seconds: float = 60, seed: int = 0, most_games: int | None = None) -> Plan:
    """The best plan of all games, the first of which is greedy. Games end when a plan fits, or cannot be improved."""
    start = time.monotonic()
    _, best = greedy.best(problem)
    bound = lower_bound(problem)
    enough = bound if problem.capacity is None else max(problem.capacity, bound)
    if problem.height(best) > enough and (problem.capacity is None or bound <= problem.capacity):
        player = _Player(_Board(problem, bound), np.random.default_rng(seed))
        games = 0
        while most_games is None or games < most_games:
            offsets = player.play(start + seconds)
            games += 1
            if offsets is None:
                break
            if problem.height(offsets) < problem.height(best):
                best = offsets
            if problem.height(best) <= enough:
                break
    return conclude(problem, best, "game", time.monotonic() - start)


class _Board:
    """The problem as arrays; heights are shares of the bound in what policy and value look at."""

    def __init__(self, problem: Problem, bound: int):
        buffers = problem.buffers
        times, ranges = sections(buffers)
        self.count, self.sections, self.bound = len(buffers), len(times), bound
        self.size: _Array = np.array([b.size for b in buffers], np.int64)
        self.alignment: _Array = np.array([b.alignment for b in buffers], np.int64)
        self.first: _Array = np.array([first for first, _ in ranges])
        self.last: _Array = np.array([last for _, last in ranges])
        at = np.arange(len(times))
        self.cover: _Array = (self.first[:, None] <= at) & (at < self.last[:, None])
        self.meets: _Array = (self.first[:, None] < self.last) & (self.first < self.last[:, None])
        self.logarithms: _Array = np.stack([np.log(self.size), np.log([b.upper - b.lower for b in buffers])])


@dataclass
class _Positions:
    """A beam, one position in each row: what is placed, and by section its top and the load to come."""

    offsets: _Array
    open: _Array
    natural: _Array
    floor: _Array
    load: _Array

    def of(self, rows: _Array) -> _Positions:
        return _Positions(self.offsets[rows], self.open[rows], self.natural[rows], self.floor[rows], self.load[rows])


@dataclass
class _Player:
    board: _Board
    rng: np.random.Generator
    elite: list[tuple[int, int, _Array]] = field(default_factory=list)  # height, number of the game, policy
    games: int = 0

    def __post_init__(self) -> None:
        features = len(_FIRST_VALUE)
        self.value: _Array = _FIRST_VALUE
        self.moments: _Array = _RIDGE * np.eye(features)
        self.products: _Array = _RIDGE * _FIRST_VALUE

    def play(self, deadline: float) -> Offsets | None:
        """A game, and what is learned from it; None if it cannot end in time."""
        board = self.board
        if self.elite and self.rng.random() > _FRESH:
            _, _, parent = self.elite[self.rng.integers(len(self.elite))]
            policy = parent + _VARIATION * _SCALES * self.rng.standard_normal(len(_SCALES))
        else:
            policy = _SCALES * np.abs(self.rng.standard_normal(len(_SCALES)))
        beam = self._start()
        seen: list[tuple[_Array, _Array]] = []  # features of the positions, and the rows of those they came from
        for _ in range(board.count):
            if time.monotonic() > deadline:
                return None
            beam, features, parents = self._move(beam, policy)
            seen.append((features, parents))
        heights = (beam.offsets + board.size).max(axis=1)
        winner = int(heights.argmin())
        self._learn(seen, heights / board.bound)
        self.elite = sorted([*self.elite, (int(heights[winner]), self.games, policy)], key=lambda game: game[:2])[
            :_ELITE
        ]
        self.games += 1
        return tuple(int(offset) for offset in beam.offsets[winner])

    def _start(self) -> _Positions:
        board = self.board
        empty: _Array = np.zeros((1, board.count), np.int64)
        load = (board.size @ board.cover)[None, :]
        return _Positions(empty, np.ones((1, board.count), bool), empty.copy(), np.zeros_like(load), load)

    def _move(self, beam: _Positions, policy: _Array) -> tuple[_Positions, _Array, _Array]:
        """The best positions one move on."""
        board = self.board
        wish = self._wishes(beam, policy)
        branch = min(_BRANCH, board.count)
        moves = np.argpartition(-wish, branch - 1, axis=1)[:, :branch]
        parents = np.repeat(np.arange(len(wish)), branch)
        chosen = moves.ravel()
        legal = wish[parents, chosen] > -np.inf
        parents, chosen = parents[legal], chosen[legal]
        top = beam.natural[parents, chosen] + board.size[chosen]
        cover = board.cover[chosen]
        floor = np.where(cover, top[:, None], beam.floor[parents])
        load = beam.load[parents] - cover * board.size[chosen][:, None]
        features = self._features(floor, load, beam.load[parents] > 0)
        # Positions alike in every section are one: only the order of the moves was another.
        _, distinct = np.unique(floor, axis=0, return_index=True)
        promise = features[distinct] @ self.value
        kept = distinct[np.lexsort((distinct, promise))[:_WIDTH]]
        following = beam.of(parents[kept])
        rows, placed = np.arange(len(kept)), chosen[kept]
        following.offsets[rows, placed] = following.natural[rows, placed]
        following.open[rows, placed] = False
        following.floor, following.load = floor[kept], load[kept]
        aligned = -(-top[kept][:, None] // board.alignment) * board.alignment
        raised = np.maximum(following.natural, aligned)
        following.natural = np.where(board.meets[placed], raised, following.natural)
        return following, features[kept], parents[kept]

    def _wishes(self, beam: _Positions, policy: _Array) -> _Array:
        """How much the policy likes each buffer as the next; -inf for those that may not be."""
        board = self.board
        top = beam.natural + board.size
        # Where another fits below a buffer, that one comes first.
        lowest_top = np.where(beam.open, top, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
        legal = beam.open & (beam.natural < lowest_top)
        length = board.last - board.first
        wasted = beam.natural - (beam.floor @ board.cover.T) / length
        pressure = ((beam.floor + beam.load) @ board.cover.T) / length
        walls = np.pad(beam.floor, ((0, 0), (1, 1)), constant_values=-1)
        flush = (walls[:, board.first] != beam.natural) * 1 + (walls[:, board.last + 1] != beam.natural)
        size, lifetime = board.logarithms
        wish = policy[0] * size + policy[1] * lifetime + policy[4] * flush
        wish = wish + (policy[2] * pressure - policy[3] * wasted) / board.bound
        wish -= 20 * beam.natural / board.bound
        return np.where(legal, wish + 0.2 * self.rng.gumbel(size=wish.shape), -np.inf)

    def _features(self, floor: _Array, load: _Array, live: _Array) -> _Array:
        """Of positions, a row each: the constant, the height that is sure, its excess, and how rough and full it is."""
        bound = self.board.bound
        sure = (floor + load) / bound
        height = floor / bound
        fullest = sure.max(axis=1)
        share = load.sum(axis=1) / (bound * floor.shape[1])
        rough = np.abs(np.diff(height, axis=1, prepend=height[:, :1])).mean(axis=1)
        return np.stack(
            [
                np.ones(len(floor)), np.maximum(fullest, 1), np.maximum(sure - 0.97, 0).mean(axis=1) * 10, rough,
                share, sure.mean(axis=1), (sure * live).sum(axis=1) / np.maximum(live.sum(axis=1), 1),
            ],
            axis=1,
        )  # fmt: skip

    def _learn(self, seen: list[tuple[_Array, _Array]], reached: _Array) -> None:
        """Each position is worth the best that came of it."""
        for number in reversed(range(len(seen))):
            features, parents = seen[number]
            known = np.isfinite(reached)  # not where all that followed was dropped
            self.moments = self.moments + features[known].T @ features[known]
            self.products = self.products + features[known].T @ reached[known]
            earlier = np.full(len(seen[number - 1][0]) if number else 1, np.inf)
            np.minimum.at(earlier, parents, reached)
            reached = earlier
        self.value = np.linalg.solve(self.moments, self.products)
