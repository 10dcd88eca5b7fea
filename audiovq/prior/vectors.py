"""Vector instructions for the kernels, written as LLVM code: products of rows with a panel, and the exponential.

LLVM's vectors of 16 lanes become one AVX-512 register, two of AVX2 or four of NEON: the same code runs anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from audiovq.kernels import cpu_features

LANES = 16
VECTORS = 4
PANEL = LANES * VECTORS
"""Outputs that are computed together: their weights for one input lie side by side."""
UNROLL = 4
"""Numbers of inputs are padded to a multiple of this."""
SUMS = 16 if "avx512f" in cpu_features() else 4
"""Vectors of sums that stay in registers beside weights and inputs: more would be written out at every input."""

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS, _BYTES = (ir.VectorType(kind, LANES) for kind in (_F32, _I32, ir.IntType(8)))


def make_product(n_rows: int, bytes_: bool) -> Callable[..., Any]:
    """An intrinsic: ``n_rows`` rows of inputs times one panel, with the sums in registers.

    ``product(x, x_stride, weights, n_in, out, out_stride, scales)`` takes addresses of float32 rows and of weights
    (n_in, PANEL), int8 or float32: ``out[r, o] = scales[o] * sum_i x[r, i] * weights[i, o]``; float32 weights have no
    scales. Strides are in values.
    """

    @intrinsic
    def product(typing, x, x_stride, weights, n_in, out, out_stride, scales):
        def generate(context, builder, signature, arguments):
            _emit_product(builder, n_rows, bytes_, *arguments)
            return context.get_dummy_value()

        return types.void(*([types.int64] * 7)), generate

    return product


def _constant(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _all(value: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [value] * LANES)


def _pointer(builder, base, n_values, kind, size: int = 4):
    """``base + n_values * size`` bytes, as a pointer to ``kind``."""
    return builder.inttoptr(builder.add(base, builder.mul(n_values, _constant(size))), kind.as_pointer())


def _splat(builder, value):
    single = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(single, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _library(builder, name: str, n_arguments: int):
    """A function of LLVM on vectors of floats."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * n_arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")


def _columns(builder, weights, start, bytes_: bool, vectors: range) -> list[Any]:
    """One input's weights for some of the panel's outputs, as floats."""
    found = []
    for v in vectors:
        place = builder.add(start, _constant(v * LANES))
        if bytes_:
            load = builder.load(_pointer(builder, weights, place, _BYTES, 1), align=LANES)
            found.append(builder.sitofp(builder.sext(load, _INTS), _FLOATS))
        else:
            found.append(builder.load(_pointer(builder, weights, place, _FLOATS), align=4))
    return found


def _emit_product(builder, n_rows: int, bytes_: bool, x, x_stride, weights, n_in, out, out_stride, scales) -> None:
    """The panel in as many goes as it takes to keep the sums in registers."""
    n_vectors = max(min(SUMS // n_rows, VECTORS), 1)
    for first in range(0, VECTORS, n_vectors):
        vectors = range(first, min(first + n_vectors, VECTORS))
        sums = _emit_sums(builder, n_rows, bytes_, vectors, x, x_stride, weights, n_in)
        for at, total in enumerate(sums):
            row, v = divmod(at, len(vectors))
            start = _constant(vectors[v] * LANES)
            if bytes_:
                total = builder.fmul(total, builder.load(_pointer(builder, scales, start, _FLOATS), align=4))
            place = builder.add(builder.mul(out_stride, _constant(row)), start)
            builder.store(total, _pointer(builder, out, place, _FLOATS), align=4)


def _emit_sums(builder, n_rows: int, bytes_: bool, vectors: range, x, x_stride, weights, n_in) -> list[Any]:
    """A loop over the inputs; the sums row by row."""
    fma = _library(builder, "fma", 3)
    before = builder.block
    loop, after = builder.append_basic_block("inputs"), builder.append_basic_block("inputs.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(_I64)
    index.add_incoming(_constant(0), before)
    sums = [builder.phi(_FLOATS) for _ in range(n_rows * len(vectors))]
    for value in sums:
        value.add_incoming(_all(0.0), before)
    totals: list[Any] = list(sums)
    for step in range(UNROLL):
        here = builder.add(index, _constant(step))
        columns = _columns(builder, weights, builder.mul(here, _constant(PANEL)), bytes_, vectors)
        for row in range(n_rows):
            place = builder.add(builder.mul(x_stride, _constant(row)), here)
            value = _splat(builder, builder.load(_pointer(builder, x, place, _F32), align=4))
            for v, column in enumerate(columns):
                at = row * len(columns) + v
                totals[at] = builder.call(fma, [value, column, totals[at]])
    following = builder.add(index, _constant(UNROLL))
    index.add_incoming(following, loop)
    for value, total in zip(sums, totals, strict=True):
        value.add_incoming(total, loop)
    builder.cbranch(builder.icmp_signed("<", following, n_in), loop, after)
    builder.position_at_end(after)
    return totals


@intrinsic
def exponential(typing, address, offset):
    """exp of the LANES floats at ``address`` and ``offset`` values on, in place; for values up to 0, exact to 2e-7.

    2^n times 2^f with n whole and f in [-1/2, 1/2]: the latter by its series, the former by the bits of the exponent.
    """

    def generate(context, builder, signature, arguments):
        fma, rint, larger = (_library(builder, *what) for what in (("fma", 3), ("rint", 1), ("maxnum", 2)))
        start, n_values = arguments
        place = _pointer(builder, start, n_values, _FLOATS)
        x = builder.call(larger, [builder.load(place, align=4), _all(-87.0)])
        scaled = builder.fmul(x, _all(1 / math.log(2)))
        whole = builder.call(rint, [scaled])
        # x - n ln 2 in two parts keeps the digits that the product would lose.
        rest = builder.call(fma, [whole, _all(-0.693359375), x])
        rest = builder.call(fma, [whole, _all(2.12194440e-4), rest])
        series = _all(1 / math.factorial(7))
        for power in range(6, -1, -1):
            series = builder.call(fma, [series, rest, _all(1 / math.factorial(power))])
        bits = builder.shl(builder.fptosi(whole, _INTS), ir.Constant(_INTS, [23] * LANES))
        builder.store(builder.bitcast(builder.add(builder.bitcast(series, _INTS), bits), _FLOATS), place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate
