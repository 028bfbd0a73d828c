"""What the softmax engine hides by labels: pairs of query and key whose labels differ by so much.

A token has several labels, int64; a record, part of the job's, says where. With an order, a list of places,
tokens lie where it says.
"""

from numba import njit

from xfaccel.engine.cpu import cache
from xfaccel.engine.cpu.kernels import tile as micro
from xfaccel.engine.cpu.memory import load_int, start_of, store_int
from xfaccel.engine.cpu.tile_plain import OPTIONS
from xfaccel.engine.tiles import TILE

# byte offsets in the record, as in `softmax`; how many labels a token has, and the limits of each
(QUERY, _, QUERY_ROW, KEY, _, KEY_ROW, COUNT, LIMITS) = range(0, 8 * 8, 8)


with cache.enabled():
    @njit(**OPTIONS)
    def take(record, entry, first, step, count, order, out):
        """The labels of the queries `first`, `first + step`, ...; lanes from `count` on repeat the last."""
        for which in range(load_int(record + COUNT)):
            label = start_of(record + QUERY, entry) + which * load_int(record + QUERY_ROW)
            for lane in range(TILE):
                last = min(lane, count - 1)
                place = load_int(order + 8 * step * last) if order != 0 else first + step * last
                store_int(out + 8 * (which * TILE + lane), load_int(label + 8 * place))

    @njit(**OPTIONS)
    def hide(record, entry, s, keys, key, step, order, own, room, zero):
        """Hide those of the keys `key`, `key + step`, ... or, with an order, in their places in it.

        `own` are the labels of the queries, `room` is for those of 64 keys.
        """
        for which in range(load_int(record + COUNT)):
            label = start_of(record + KEY, entry) + which * load_int(record + KEY_ROW)
            limits = load_int(record + LIMITS) + 16 * which
            here, label_step = label + 8 * key, 8 * step
            if order != 0:
                for t in range(keys):
                    store_int(room + 8 * t, load_int(label + 8 * load_int(order + 8 * t * step)))
                here, label_step = room, 8
            micro.hide_labels(s, keys, own + 8 * which * TILE, here, label_step, load_int(limits),
                              load_int(limits + 8), zero)
