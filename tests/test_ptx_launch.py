"""How the interpreter takes arguments, as a driver does, and what the compiler says."""

import numpy as np
import pytest
from ptx import ARCHITECTURES, REMEDY, CompileError, OutOfBounds, Unwritten, blank, compile, launch, library
from ptx.examples import PARAMETERS, THREAD, run, tensor

pytestmark = pytest.mark.skipif(library() is None, reason=REMEDY)


def test_results_remember_what_was_written():
    body, out = THREAD + "if (i < 10) out[i] = x[i] + 1;", blank(64, np.float32)
    x, y = np.zeros(64, np.float32), np.zeros(64, np.float32)
    x.flags.writeable = False
    assert run(body, [x, out], PARAMETERS).unwritten == {1: 54 * 4}
    assert np.isnan(out[10:]).all() and run(body, [out, y], PARAMETERS).unwritten == {0: 54 * 4}
    assert y[:10].tolist() == [2] * 10 and not y[10:].any()
    with pytest.raises(Unwritten, match=r"argument 0, byte 40 of 256"):
        run(body.replace("10", "11"), [out, y], PARAMETERS)
    # a kernel whose smallest piece is larger than what was written before
    report = run(THREAD + "if (i == 4) ((float4*)out)[i] = ((float4*)x)[i];", [x, out], PARAMETERS)
    assert report.unwritten == {1: 50 * 4}


def test_parts_of_an_array_are_what_may_be_accessed():
    whole = np.arange(100, dtype=np.float32)  # x and out are one array to the host
    run(THREAD + "out[i] = x[i];", [whole[:32], whole[40:72]], PARAMETERS)
    assert np.array_equal(whole[40:72], np.arange(32)) and whole[39] == 39 and whole[72] == 72
    with pytest.raises(OutOfBounds):
        run(THREAD + "out[i] = x[i + 1];", [whole[:32], whole[40:72]], PARAMETERS)
    turned = np.zeros((4, 8), np.float32).T
    run(THREAD + "out[i] = i;", [whole, turned], PARAMETERS)
    assert np.array_equal(turned.T.ravel(), np.arange(32))
    # what runs backwards begins at its first number, as with CuPy
    run(THREAD + "out[-i] = x[-i];", [whole[31::-1], whole[71:39:-1]], PARAMETERS)
    assert np.array_equal(whole[40:72], whole[:32])
    with pytest.raises(OutOfBounds):
        run(THREAD + "out[i] = x[-i];", [whole[31::-1], whole[71:39:-1]], PARAMETERS)


@pytest.mark.parametrize("argument", [1, 1.0, np.float64(1), np.int32(1), "1"])
def test_a_scalar_has_the_type_of_its_parameter(argument):
    out = blank(1, np.float32)
    with pytest.raises(TypeError, match=r"kernel_param_1 is \.f32"):
        run("out[0] = x;", [out, argument], "float* out, float x")


def test_a_launch_that_a_gpu_refuses():
    x = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match="takes 2 arguments"):
        run("out[0] = 1;", [x], PARAMETERS)
    for grid, block in [(0, 32), (1, 1056), (1, 0)]:
        with pytest.raises(ValueError, match="cannot be launched"):
            run("out[0] = 1;", [x, x], PARAMETERS, grid=grid, block=block)
    with pytest.raises(ValueError, match="cannot be launched"):  # __launch_bounds__
        launch(tensor(), "tensor", 1, 96, [x, x, x, *np.int32([1, 1, 8])])
    with pytest.raises(ValueError, match="more than sm_86 has"):
        run("out[0] = 1;", [x, x], PARAMETERS, sm=86, shared=100 * 1024)
    with pytest.raises(ValueError, match="schedule is"):
        run("out[0] = 1;", [x, x], PARAMETERS, schedule="any")


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_every_architecture_is_compiled_for(sm):
    module = tensor(sm=sm)
    found = module.resources["tensor"]
    assert f".target sm_{sm}" in module.ptx and module.cubin[:4] == b"\x7fELF"
    assert 32 <= found.registers <= 128 and found.spill_stores == found.spill_loads == found.stack == 0


def test_what_does_not_compile_is_said():
    with pytest.raises(CompileError, match=r"kernel\.cu\(1\).*undefined_name"):
        compile('extern "C" __global__ void kernel() { undefined_name = 1; }')
