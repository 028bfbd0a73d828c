"""The softmax kernel for Hopper without a GPU: what `test_gpu_kernels` asks of the others.

Rows begin at multiples of 16 bytes, as the kernel needs; there are more tiles than the stand-in has
multiprocessors, so that a block takes several.
"""

import itertools
import math

import cupy_stand_in
import numpy as np
import ptx
import pytest
import test_gpu_kernels as kernels
from ptx import nvrtc, sass
from test_gpu_kernels import LEAD, compared, everything, of_pattern, operands, softmax, stored

import xfref
from xfaccel import patterns
from xfaccel.engine import tiles
from xfaccel.engine.gpu import launch, loader

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason=nvrtc.REMEDY)

FILE = "softmax_wgmma.cu"
FORMS = [(("XF_STORED", launch.STORED[dtype]), ("XF_WIDTH", width))
         for dtype, width in itertools.product(launch.HALF, (64, 128))]
FEW = dict(n=70, m=300)  # three tiles of keys; the second half of the queries is short


@pytest.fixture(autouse=True)
def cupy():
    with cupy_stand_in.installed() as install:
        install(sm=90)
        yield install


def whole(rng, dtype="bfloat16", *, n=200, m=300, d=24, e=40, lead=LEAD):
    """Operands whose rows begin at whole pieces, some of them apart; keys are shared by heads."""
    return operands(rng, dtype, n=n, m=m, d=d, e=e, lead=lead, gap=(8, 0, 16))


def launched(*args, **options):
    """The kernel files that a call launches."""
    files, run = [], loader.run

    def spy(launch):
        files.append(launch.file)
        run(launch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader, "run", spy)
        out = softmax(*args, **options)
    return files, out


def check(args, tile_list, dtype="bfloat16", *, own=None, **theirs):
    files, out = launched(*args, tile_list, dtype, **(own or {}))
    assert files == [FILE]
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v, **theirs), args, dtype)


def test_full():
    check(whole(np.random.default_rng(0)), everything(200, 300))


@pytest.mark.parametrize("dtype, d, e", [("float16", 8, 128), ("float16", 128, 72), ("bfloat16", 72, 200)])
def test_widths(dtype, d, e):
    """Results wider than a tile come in stretches."""
    check(whole(np.random.default_rng(1), dtype, **FEW, d=d, e=e), everything(**FEW), dtype)


def test_causal_with_a_first_and_a_last_tile_that_one_half_does_not_see():
    n, m = 330, 390
    args = whole(np.random.default_rng(2), n=n, m=m, d=64, e=64, lead=(1, 1))
    check(args, tiles.band(n, m, -tiles.WIDE, 0), causal=True)


def test_fewer_keys_than_queries():
    """Queries before the first key see nothing; tiles of them have no keys at all."""
    check(whole(np.random.default_rng(3), n=300, m=100), tiles.band(300, 100, -tiles.WIDE, 0), causal=True)


def test_dilated_window():
    mask = xfref.patterns.window(430, 500, left=20, right=3, dilation=3)
    args = whole(np.random.default_rng(4), n=430, m=500, lead=(1, 1))
    check(args, tiles.band(430, 500, -20, 3, 3), mask=mask)


def test_bits_of_lanes_and_planes_of_different_length():
    rng, n = np.random.default_rng(5), 200
    table = rng.integers(-1, 5, (5, 2))
    made = [of_pattern(patterns.blocks(table, 40, n) | patterns.window(n, left=9, right=9)),
            tiles.band(n, n, -9, 9, 4)]
    assert len(made[0].masks) > 64
    mask = np.stack([xfref.patterns.blocks(table, 40, n) | xfref.patterns.window(n, left=9, right=9),
                     xfref.patterns.window(n, left=9, right=9, dilation=4)])
    check(whole(rng, n=n, m=n), tiles.join(made), own=dict(planes=(2,)), mask=mask)


def test_padding_with_garbage():
    """One entry has no key left; another lacks those of a whole tile."""
    rng = np.random.default_rng(6)
    q, k, v = whole(rng, lead=(2, 2))
    key_mask = rng.random((2, 1, 300)) < 0.4
    key_mask[0, :, 120:260] = False
    key_mask[1] = False
    garbage = stored(np.float32(np.nan), "bfloat16")
    args = q, *(np.where(key_mask[..., None], x, garbage) for x in (k, v))
    check(args, everything(200, 300), own=dict(key_mask=key_mask), key_mask=key_mask)


def test_rows_in_any_order_joined_with_results_so_far():
    n, m, rng = 150, 300, np.random.default_rng(7)
    q, k, v = whole(rng, n=n, m=m, e=136)
    key_mask = np.ones((1, 2, m), bool)
    key_mask[:, 0, :60] = False
    so_far = softmax(q, *(x[..., :60, :] for x in (k, v)), everything(n, 60), "bfloat16",
                     key_mask=key_mask[..., :60])
    order = (rng.permuted(np.tile(np.arange(n), (1, 2, 1)), axis=-1),
             rng.permuted(np.tile(np.arange(60, m), (1, 2, 1)), axis=-1))
    files, out = launched(q, k, v, everything(n, m - 60), "bfloat16", order=order,
                          into=(np.ascontiguousarray(stored(so_far[0], "bfloat16")), so_far[1].copy()))
    assert files == [FILE]
    compared(out, lambda q, k, v: xfref.attention_lse(q, k, v, key_mask=key_mask), (q, k, v), "bfloat16")


@pytest.mark.parametrize("options, d", [
    (dict(scale=-0.2), 24), (dict(scale=0.0), 24), (dict(bias=np.zeros((20, 300), np.uint16)), 24), ({}, 20),
    ({}, 136)])
def test_what_the_kernel_does_not_take_goes_to_another(options, d):
    """Scales that are not positive, biases, rows that begin within a piece, wide rows."""
    args = whole(np.random.default_rng(8), d=d, lead=(1, 1), **dict(FEW, n=20))
    assert launched(*args, everything(20, 300), "bfloat16", **options)[0] == ["softmax_mma.cu"]


@pytest.mark.parametrize("schedule", ["forward", "backward", 7] if kernels.EVERYTHING else [7])
def test_the_order_of_warps_does_not_matter(cupy, schedule):
    args = whole(np.random.default_rng(9), **FEW, lead=(1, 1))
    due = softmax(*args, everything(**FEW), "bfloat16")
    cupy(sm=90, schedule=schedule)
    for found, each in zip(softmax(*args, everything(**FEW), "bfloat16"), due, strict=True):
        np.testing.assert_array_equal(found, each)


def seen(tile_list, shape):
    """How often each query sees each key, by a list of tiles or of two together."""
    counts = np.zeros(shape, int)
    for tile, begin, end in zip(tile_list.tiles, tile_list.offsets, tile_list.offsets[1:], strict=False):
        for first, step, count, low, high, words, *other in tile_list.segments[begin:end]:
            keys = np.arange(count)
            limits = [(low, high), *([other] if other else [])]
            for (query, apart, lanes), (low, high) in zip(tile.reshape(-1, 3), limits, strict=True):
                lane = np.arange(lanes)[:, None]
                sees = (low <= keys - lane) & (keys - lane <= high)
                if words >= 0:
                    sees &= (tile_list.masks[words + keys].view(np.uint64) >> lane.astype(np.uint64) & 1) > 0
                counts[np.ix_(query + apart * lane[:, 0], first + step * keys)] += sees
    return counts


@pytest.mark.parametrize("number", range(60))
def test_two_tiles_together_see_what_each_does(number):
    """Bands of all kinds, and ranges that some lanes of a tile see or all of a block."""
    rng = np.random.default_rng(number)
    n, m = map(int, rng.integers(1, 400, 2))
    if number % 5 < 3:
        low = -tiles.WIDE if number % 5 == 0 else int(rng.integers(-150, 50))
        high = tiles.WIDE if number % 5 == 1 else max(low, -150) + int(rng.integers(0, 200))
        tile_list = tiles.band(n, m, low, high, int(rng.integers(1, 4)))
    else:
        block = 64 if number % 5 == 3 else 1
        edges = np.sort(rng.integers(0, m + 1, (-(-n // block), 6)), axis=1).repeat(block, axis=0)[:n]
        tile_list = tiles.from_ranges(edges[:, ::2], edges[:, 1::2])
    together = tiles.paired(tile_list)
    np.testing.assert_array_equal(seen(together, (n, m)), seen(tile_list, (n, m)))
    assert len(together.tiles) <= len(tile_list.tiles) / 2 + len(tile_list.planes) + 2
    assert tiles.paired(tile_list) is together


@pytest.mark.parametrize("own, other", [
    ((0, 100, -500, 90), (0, 128, -500, 26)),      # the second's keys go on where the first's band would too
    ((0, 128, -500, 90), (0, 100, -500, 140)),
    ((20, 108, -40, 900), (0, 128, -60, 900)),     # or begin before it
    ((0, 128, -60, 900), (20, 108, -120, 900))])
def test_keys_that_end_before_their_band_does_stay_apart(own, other):
    """As no band has them, but a list may."""
    segments = [[first, 1, count, low, high, -1] for first, count, low, high in (own, other)]
    tile_list = tiles._kept([[0, 2], [[0, 1, 64], [64, 1, 64]], [0, 1, 2], segments, []])
    np.testing.assert_array_equal(seen(tiles.paired(tile_list), (128, 128)), seen(tile_list, (128, 128)))


def test_keys_that_two_tiles_see_are_loaded_once():
    """On average: all of them, a half and half a tile more, a window and 127 more."""
    n = 1024
    for low, high, keys in ((-tiles.WIDE, tiles.WIDE, n), (-tiles.WIDE, 0, n / 2 + 64), (-64, 64, 129 + 127)):
        found = tiles.paired(tiles.band(n, n, low, high)).segments[:, 2]
        assert len(found) == n / 128 and found.mean() <= keys


def once():
    """One block takes all: of the first queries a half sees few keys, the other more tiles of them than there
    are stages, and one not whole; then come queries that see two tiles, some that see none, and two again."""
    n, m = 134, 560
    stops = np.repeat([[100, 560, 200], [200, 200, 0]], [64, 64, 6], axis=1)
    made = [tiles.from_ranges(np.zeros((n, 1), np.int64), own[:, None]) for own in stops]
    key_mask = np.arange(m)[None, None] != 200
    args = whole(np.random.default_rng(10), n=n, m=m, d=8, e=8, lead=(1, 2))
    check(args, tiles.join(made), own=dict(planes=(2,), key_mask=key_mask), key_mask=key_mask,
          mask=np.arange(m) < stops[..., None])


def changed(which):
    def edit(options, module):
        orders = ptx.ordering(module)
        found.update(enumerate(orders))
        return module if which is None else ptx.drop(module, which)

    found = {}
    return edit, found


def missed(cupy, which):
    """Whether anything is wrong with a call without that order."""
    cupy(sm=90, edit=changed(which)[0], processors=1)
    try:
        once()
    except (ptx.Fault, AssertionError):
        return True
    return False


def orders_of(cupy):
    edit, orders = changed(None)
    cupy(sm=90, edit=edit, processors=1)
    once()
    return sorted(orders.items())


@pytest.mark.parametrize("turn", range(8) if kernels.EVERYTHING else [3])
def test_each_barrier_wait_arrival_and_fence_is_needed(cupy, turn):
    orders = [(which, each) for which, each in orders_of(cupy) if not each.startswith("bar.warp")]
    assert len(orders) > 40
    for which, instruction in orders[turn::8]:
        assert missed(cupy, which), f"nobody misses number {which}, {instruction}"


@pytest.mark.skipif(not kernels.EVERYTHING, reason="make proof-all")
def test_lanes_meet_before_one_speaks_for_all(cupy):
    """Two places are of no use here, where the warp meets for products before the ring has come round: in a
    run, behind what is said of a tile that not all see, and behind its end."""
    meetings = [which for which, instruction in orders_of(cupy) if instruction.startswith("bar.warp")]
    assert sum(not missed(cupy, which) for which in meetings) == 2 < len(meetings)


# what the compiler makes of it


def compiled(macros):
    options = loader.options(launch.Launch(FILE, macros, (), 0, 0, ()))
    return nvrtc.compile(loader.source(FILE), "90a", (*options, *cupy_stand_in.ADDED))


@pytest.mark.parametrize("macros", FORMS)
def test_it_compiles_without_spills_and_products_go_on_beside_the_rest(macros):
    module = compiled(macros)
    resources, = module.resources.values()
    assert (resources.stack, resources.spill_stores, resources.spill_loads) == (0, 0, 0)
    assert resources.registers * 384 <= 1 << 16
    for note in ("C7508", "C7510", "C7514"):  # registers not moved, products one after another
        assert note not in module.log


@pytest.mark.skipif(sass.disassembler() is None, reason=sass.REMEDY)
@pytest.mark.parametrize("macros", FORMS)
def test_groups_of_warps_do_the_products(macros):
    module = compiled(macros)
    found = sass.instructions(module.cubin)
    for due in ("HGMMA.64x128x16.F32", "LDGSTS.E.BYPASS", "MUFU.EX2", "USETMAXREG", "SYNCS.PHASECHK"):
        assert any(name.startswith(due) for name in found), due
    assert not any(name.startswith(("HMMA", "LDL", "STL")) for name in found)
    assert sum(number for name, number in found.items() if name.startswith("HGMMA")) == module.ptx.count(
        "wgmma.mma_async")


def test_a_launch_fits_into_shared_memory():
    for d, e in ((8, 8), (128, 304)):
        q = launch.operand(np.zeros((1, 1, 9, d), np.float16), (1, 1))
        v = launch.operand(np.zeros((1, 1, 9, e), np.float16), (1, 1))
        made = launch.softmax(q, q, v, v, None, dtype="float16", d=d, e=e, tile_list=everything(9, 9),
                              plane_of=np.zeros(1, np.int64), scale=1.0, put=np.asarray, hopper=132)
        assert made.file == FILE and made.shared <= 227 << 10 and made.grid == (1, math.ceil(e / 128))
