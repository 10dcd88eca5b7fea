"""Vector instructions for sampling kernels, as numba intrinsics.

numba leaves vectorising to LLVM, which stops at half the width of AVX-512 and keeps no tile of results in registers.
So the few inner loops are written as LLVM instructions on vectors of `WIDTH` floats, here and nowhere else. LLVM turns
them into whatever the processor has; `WIDTH` only says what suits it.

A matrix (rows of inputs, K) x (K, n) is cut into panels of `2 * TILE` outputs, each stored as (K, 2 * TILE); where n
is an odd number of tiles, the last is (K, TILE). The inner loop over K reads weights from front to back and multiplies
them by one input value, in accumulators that never leave the registers: for one row those of a whole panel, for four
rows those of a tile::

    panel 0 |k=0: tile 0|tile 1|k=1: tile 0|tile 1|...  panel 1 |k=0: tile 2|tile 3|...

Every output is one chain of fused multiply-adds over k, whatever the number of rows: a stream gets the same bits alone
and in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import extending, types

from audiovq.kernels import cpu_features

intrinsic: Any = extending.intrinsic  # typed as a function of (typing context, arguments), which callers never see

F32, I8, I32, I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
# exp(r) = 1 + r + r^2 P(r) on |r| <= ln(2) / 2: a Chebyshev fit of P, relative error 1.2e-8.
EXP_POLYNOMIAL = (0.5000000015, 0.1666656960, 0.0416664483, 0.0083643834, 0.0013935455)
LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
ROUND = 12582912.0  # 1.5 * 2^23: adding it rounds to an integer that stands in the lowest bits


WIDTH = 16 if "avx512f" in cpu_features() else 8 if "avx" in cpu_features() else 4
"""Floats of the widest vectors of the processor numba compiles for."""
TILE = WIDTH * 4
PANEL = 64
"""Outputs of a prior's matrix whose weights for one input lie side by side."""
UNROLL = 4
"""Numbers of inputs are padded to a multiple of this."""
SUMS = 16 if WIDTH == 16 else 4
"""Sums, in units of 16 floats, that stay in registers: more would be written out at every input."""

VEC, IVEC, BVEC = (ir.VectorType(kind, WIDTH) for kind in (F32, I32, I8))


def _vec(value: float) -> ir.Constant:
    return ir.Constant(VEC, [value] * WIDTH)


def _index(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _call(builder, name: str, *arguments):
    """An LLVM function on vectors, declared in the module at its first use."""
    name = f"llvm.{name}.v{WIDTH}f32"
    kind = ir.FunctionType(VEC, [VEC] * len(arguments))
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def _pointer(builder, address, kind=F32):
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, pointer, kind=VEC, align: int = 4):
    # Memory is aligned to whole vectors; where it is not, slow is better than wrong.
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=align)


def _store(builder, value, pointer) -> None:
    builder.store(value, builder.bitcast(pointer, VEC.as_pointer()), align=4)


def _broadcast(builder, value):
    undefined = ir.Constant(VEC, ir.Undefined)
    single = builder.insert_element(undefined, value, I32(0))
    return builder.shuffle_vector(single, undefined, ir.Constant(IVEC, [0] * WIDTH))


def _cell(builder, pointer, step, row: int, column: int):
    """The place of a number of a matrix with ``step`` numbers from one row to the next."""
    return builder.gep(pointer, [builder.add(builder.mul(step, _index(row)), _index(column))])


def _add_products(builder, start, rows: int, x, x_step, n_inputs, weights_of: Callable[..., list[Any]]) -> list[Any]:
    """Vectors ``start`` of all rows, one row after the other, plus each input of the row times its weights.

    ``weights_of(builder, i)`` loads the weights of input i. ``n_inputs`` is a multiple of `UNROLL`.
    """
    before = builder.block
    loop, after = builder.append_basic_block("inputs"), builder.append_basic_block("inputs.end")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(I64)
    sums = [builder.phi(VEC) for _ in start]
    totals = list(sums)
    for u in range(UNROLL):
        ki = builder.add(i, _index(u))
        weights = weights_of(builder, ki)
        for row in range(rows):
            place = builder.gep(x, [builder.add(builder.mul(x_step, _index(row)), ki)])
            value = _broadcast(builder, builder.load(place, align=4))
            for n, weight in enumerate(weights, row * len(weights)):
                totals[n] = _call(builder, "fmuladd", weight, value, totals[n])
    following = builder.add(i, _index(UNROLL))
    for phi, first, then in [(i, _index(0), following), *zip(sums, start, totals, strict=True)]:
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", following, n_inputs), loop, after)
    builder.position_at_end(after)
    return totals


def _make_tile(rows: int, tiles: int):
    """The kernel for ``rows`` rows of inputs and ``tiles`` neighbouring tiles of outputs."""
    columns = range(0, tiles * TILE, WIDTH)

    @intrinsic
    def tile(typing, out, os, a, as_, b, bs, w, ws, x, xs, k):
        """out[r] = a[r] + b[r] + x[r] @ w for `rows` rows: each an address and the numbers from one row to the next.

        k is a multiple of `UNROLL`; out may be a.
        """

        def generate(context, builder, signature, arguments):
            out, os, a, as_, b, bs, w, ws, x, xs, k = arguments
            out, a, b, w, x = (_pointer(builder, address) for address in (out, a, b, w, x))

            def weights_of(builder, i):
                place = builder.mul(i, ws)
                return [_load(builder, builder.gep(w, [builder.add(place, _index(j))])) for j in columns]

            cells = [(r, j) for r in range(rows) for j in columns]
            parts = [[_load(builder, _cell(builder, p, s, *cell)) for p, s in ((a, as_), (b, bs))] for cell in cells]
            start = [builder.fadd(*pair) for pair in parts]
            totals = _add_products(builder, start, rows, x, xs, k, weights_of)
            for total, cell in zip(totals, cells, strict=True):
                _store(builder, total, _cell(builder, out, os, *cell))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), generate

    return tile


tile_1x2, tile_1x1, tile_4x1 = _make_tile(1, 2), _make_tile(1, 1), _make_tile(4, 1)


def make_product(rows: int, bytes_: bool) -> Callable[..., Any]:
    """An intrinsic: ``rows`` rows of inputs times a panel of `PANEL` outputs, with the sums in registers.

    ``product(x, x_step, w, n_inputs, out, out_step, scales)`` takes addresses of float32 rows and of weights
    (n_inputs, PANEL), int8 or float32: ``out[r, o] = scales[o] * sum_i x[r, i] * w[i, o]``; float32 weights have no
    scales.
    """
    # As many outputs at a time as there are registers for their sums, beside weights and inputs.
    n_together = max(min(SUMS // rows, PANEL // 16), 1) * 16

    @intrinsic
    def product(typing, x, x_step, w, n_inputs, out, out_step, scales):
        def generate(context, builder, signature, arguments):
            x, x_step, w, n_inputs, out, out_step, scales = arguments
            x, out, scales = (_pointer(builder, address) for address in (x, out, scales))
            w = _pointer(builder, w, I8 if bytes_ else F32)
            for first in range(0, PANEL, n_together):
                columns = range(first, min(first + n_together, PANEL), WIDTH)

                def weights_of(builder, i, columns=columns):
                    start = builder.mul(i, _index(PANEL))
                    places = [builder.gep(w, [builder.add(start, _index(j))]) for j in columns]
                    if not bytes_:
                        return [_load(builder, place) for place in places]
                    loads = [_load(builder, place, BVEC, WIDTH) for place in places]
                    return [builder.sitofp(builder.sext(load, IVEC), VEC) for load in loads]

                cells = [(r, j) for r in range(rows) for j in columns]
                totals = _add_products(builder, [_vec(0.0)] * len(cells), rows, x, x_step, n_inputs, weights_of)
                for total, (r, j) in zip(totals, cells, strict=True):
                    if bytes_:
                        total = builder.fmul(total, _load(builder, builder.gep(scales, [_index(j)])))
                    _store(builder, total, _cell(builder, out, out_step, r, j))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), generate

    return product


def _clip(builder, value, low: float, high: float):
    value = builder.select(builder.fcmp_ordered("<", value, _vec(high)), value, _vec(high))
    return builder.select(builder.fcmp_ordered(">", value, _vec(low)), value, _vec(low))


def _exp(builder, value):
    """exp of a vector with |value| <= 87; relative error 2e-7."""
    shifted = _call(builder, "fmuladd", value, _vec(LOG2_E), _vec(ROUND))
    whole = builder.fsub(shifted, _vec(ROUND))
    rest = _call(builder, "fmuladd", whole, _vec(-LN2_HIGH), value)
    rest = _call(builder, "fmuladd", whole, _vec(-LN2_LOW), rest)
    series = _vec(EXP_POLYNOMIAL[-1])
    for coefficient in EXP_POLYNOMIAL[-2::-1]:
        series = _call(builder, "fmuladd", series, rest, _vec(coefficient))
    series = _call(builder, "fmuladd", series, builder.fmul(rest, rest), rest)
    series = builder.fadd(series, _vec(1.0))
    # 2^whole, put together from the bits that hold it
    exponent = builder.add(builder.bitcast(shifted, IVEC), ir.Constant(IVEC, [127] * WIDTH))
    power = builder.bitcast(builder.shl(exponent, ir.Constant(IVEC, [23] * WIDTH)), VEC)
    return builder.fmul(series, power)


def _on_vectors(body, *scalars):
    """Signature and code of an intrinsic (out, x, n, *scalars) for n a multiple of WIDTH and not 0.

    ``body(builder, out, x, n, i, *vectors)`` gives the vector that is stored from ``out[i]`` on, for i = 0, WIDTH, ...
    below n; it gets each scalar as a vector.
    """

    def generate(context, builder, signature, arguments):
        out, x, n = _pointer(builder, arguments[0]), _pointer(builder, arguments[1]), arguments[2]
        vectors = [_broadcast(builder, value) for value in arguments[3:]]
        before, loop, after = builder.block, builder.append_basic_block("vectors"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        i = builder.phi(I64)
        _store(builder, body(builder, out, x, n, i, *vectors), builder.gep(out, [i]))
        following = builder.add(i, _index(WIDTH))
        i.add_incoming(_index(0), before)
        i.add_incoming(following, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, *scalars), generate


@intrinsic
def gate(typing, out, x, n):
    """out[i] = tanh(x[i]) * sigmoid(x[n + i]) for i < n; error below 3e-7. See `_on_vectors` for n."""

    def body(builder, out, x, n, i):
        filtered = _clip(builder, _load(builder, builder.gep(x, [i])), -9.0, 9.0)
        gated = _clip(builder, _load(builder, builder.gep(x, [builder.add(i, n)])), -40.0, 40.0)
        u = _exp(builder, builder.fmul(filtered, _vec(-2.0)))
        v = _exp(builder, builder.fmul(gated, _vec(-1.0)))
        # (1 - u) / (1 + u) * 1 / (1 + v): one division for both
        bottom = builder.fmul(builder.fadd(u, _vec(1.0)), builder.fadd(v, _vec(1.0)))
        return builder.fdiv(builder.fsub(_vec(1.0), u), bottom)

    return _on_vectors(body)


@intrinsic
def exp_below(typing, out, x, n, top, scale):
    """out[i] = exp(scale * (x[i] - top)) for i < n; what lies below -87 counts as that."""

    def body(builder, out, x, n, i, top, scale):
        value = builder.fmul(builder.fsub(_load(builder, builder.gep(x, [i])), top), scale)
        return _exp(builder, _clip(builder, value, -87.0, 0.0))

    return _on_vectors(body, types.float32, types.float32)


@intrinsic
def exponential(typing, out, x, n):
    """out[i] = exp(x[i]) for i < n and x[i] up to 0; relative error 2e-7.

    2^n times 2^f with n whole and f in [-1/2, 1/2]: the latter by its series, the former by the bits of the exponent.
    """

    def body(builder, out, x, n, i):
        value = _call(builder, "maxnum", _load(builder, builder.gep(x, [i])), _vec(-87.0))
        whole = _call(builder, "rint", builder.fmul(value, _vec(LOG2_E)))
        # x - n ln 2 in two parts keeps the digits that the product would lose.
        rest = _call(builder, "fmuladd", whole, _vec(-LN2_HIGH), value)
        rest = _call(builder, "fmuladd", whole, _vec(-LN2_LOW), rest)
        series = _vec(1 / math.factorial(7))
        for power in range(6, -1, -1):
            series = _call(builder, "fmuladd", series, rest, _vec(1 / math.factorial(power)))
        bits = builder.shl(builder.fptosi(whole, IVEC), ir.Constant(IVEC, [23] * WIDTH))
        return builder.bitcast(builder.add(builder.bitcast(series, IVEC), bits), VEC)

    return _on_vectors(body)


@intrinsic
def copy(typing, out, x, n):
    """out[i] = x[i] for i < n."""
    return _on_vectors(lambda builder, out, x, n, i: _load(builder, builder.gep(x, [i])))


@intrinsic
def rectify(typing, out, x, n):
    """out[i] = max(x[i], 0) for i < n."""

    def body(builder, out, x, n, i):
        value = _load(builder, builder.gep(x, [i]))
        return builder.select(builder.fcmp_ordered(">", value, _vec(0.0)), value, _vec(0.0))

    return _on_vectors(body)


@intrinsic
def add_scaled(typing, out, x, n, scale):
    """out[i] += scale * x[i] for i < n."""

    def body(builder, out, x, n, i, scale):
        value = _load(builder, builder.gep(x, [i]))
        return _call(builder, "fmuladd", value, scale, _load(builder, builder.gep(out, [i])))

    return _on_vectors(body, types.float32)


@intrinsic
def address(typing, array):
    """Where the numbers of a contiguous array lie."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, I64)

    return types.int64(array), generate
