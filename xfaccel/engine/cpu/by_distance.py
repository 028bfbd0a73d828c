"""What the softmax engine adds to scores by the distance of query and key: a bias, or the score of a key.

A table holds an entry for each distance, clipped at its ends. A record, part of the job's, says where.
"""

from numba import njit

from xfaccel.arrays import Rows
from xfaccel.engine.cpu import cache
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import load_int, size_of, start_of
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE

# byte offsets in the record, as in `softmax`: a bias, the distance of its entry 0 and its last entry; queries
# and keys, and the same two numbers
(TABLE, _, TABLE_ROW, TABLE_COLUMN, NEAREST, FARTHEST,
 QUERY, _, QUERY_ROW, KEY, _, KEY_ROW, KEY_NEAREST, KEY_FARTHEST) = range(0, 8 * 14, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def add(record, entry, s, keys, key, key_step, first, step, count, zero):
        """Add the bias by distance of the keys `key`, `key + key_step`, ... and the queries `first`, ..."""
        size = size_of(zero)
        # the entry for lane 0 and the first key; a key adds key_step, a lane takes step
        here, last = key - first - load_int(record + NEAREST), load_int(record + FARTHEST)
        column = load_int(record + TABLE_COLUMN)
        across = step * load_int(record + TABLE_ROW)
        by_lane = start_of(record + TABLE, entry) + first * load_int(record + TABLE_ROW)
        least, most = here - (count - 1) * step, here + (keys - 1) * key_step
        if most <= 0 or least >= last:
            by_lane += column * (0 if most <= 0 else last)
            micro.add_lanes(s, keys, count, by_lane, across, zero)
        elif here >= TILE - 1 and most <= last and across == 0 and step == 1 and key_step * column == size:
            micro.add_shared(s, keys, by_lane + (here - (TILE - 1)) * column, zero)
        elif least >= 0 and most <= last and key_step * column == size:
            # a dense bias whose rows begin one entry earlier from lane to lane
            by_lane += here * column
            micro.add_rows(s, keys, count, by_lane, across - step * column, zero)
        else:
            micro.add_clipped(s, keys, count, by_lane, across, column, here, key_step, step, last, zero)

    @njit(**OPTIONS)
    def scores(record, entry, first, count, d, queries, out, zero):
        """out[t, lane] = the score of the key by distance first + t, for `count` of them.

        Beyond either end of these keys it is that of the key there.
        """
        size, last, key_row = size_of(zero), load_int(record + KEY_FARTHEST), load_int(record + KEY_ROW)
        row = TILE * size
        low, high = min(max(first, 0), last), min(max(first + count - 1, 0), last)
        begin = min(max(low - first, 0), count - 1)
        end = begin + high - low
        keys = start_of(record + KEY, entry) + low * key_row
        micro.scores(keys, key_row, size, high - low + 1, d, queries, out + begin * row, zero)
        for t in range(begin):
            micro.copy_row(out + begin * row, TILE, out + t * row, zero)
        for t in range(end + 1, count):
            micro.copy_row(out + end * row, TILE, out + t * row, zero)


def record(distance: tuple[Rows, int, int] | None, relative: tuple[Rows, Rows, int, int] | None
           ) -> list[int]:
    """The record of a bias by distance and of queries and keys by distance, as `softmax.run` takes them."""
    return [*((*distance[0][2:], *distance[1:]) if distance else [0] * 6),
            *((*relative[0][2:5], *relative[1][2:5], *relative[2:]) if relative else [0] * 8)]
