# pyright: basic, reportOptionalCall=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""Sixteen floats at a time inside numba: vector and mask types with the usual operators.

LLVM's own vectoriser gives up on the loops of a rasteriser (reductions, early exits, arrays
that might overlap). With an explicit type the code reads as if it were about one number and is
always compiled to vector instructions: one AVX-512 register, two AVX or four SSE/NEON ones.
Numba sees the types only between the arrays that are loaded and stored, so signatures and the
cache on disk know nothing of them.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic, models, register_model
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typeconv.castgraph import Conversion
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature

WIDTH = 16
"""Floats in a vector."""

_f32 = ir.FloatType()
_i32 = ir.IntType(32)
_FLOATS = ir.VectorType(_f32, WIDTH)
_INTS = ir.VectorType(_i32, WIDTH)
_BITS = ir.VectorType(ir.IntType(1), WIDTH)


class _Floats(types.Type):
    def __init__(self) -> None:
        super().__init__(name="f32x16")

    def can_convert_from(self, typingctx, other):
        """Let a number stand for a vector of sixteen copies of it."""
        if isinstance(other, (types.Float, types.Integer)):
            return Conversion.unsafe if other != types.float32 else Conversion.safe
        return None


class _Mask(types.Type):
    def __init__(self) -> None:
        super().__init__(name="b1x16")


floats = _Floats()
mask = _Mask()


@register_model(_Floats)
class _FloatsModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _FLOATS)


@register_model(_Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type) -> None:
        super().__init__(dmm, fe_type, _BITS)


def _splat(builder, value, kind=_FLOATS):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_i32, 0))
    zeros = ir.Constant(ir.VectorType(_i32, WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _constant(value):
    return ir.Constant(_FLOATS, [float(value)] * WIDTH)


@lower_cast(types.Float, floats)
@lower_cast(types.Integer, floats)
def _number_to_floats(context, builder, fromty, toty, val):
    return _splat(builder, context.cast(builder, val, fromty, types.float32))


def _operator(function, result, argument, count, emit):
    class Template(ConcreteTemplate):
        cases = [signature(result, *[argument] * count)]

    infer_global(function)(Template)

    @lower_builtin(function, *[argument] * count)
    def lower(context, builder, sig, args):
        return emit(builder, *args)


_operator(operator.add, floats, floats, 2, lambda b, x, y: b.fadd(x, y))
_operator(operator.sub, floats, floats, 2, lambda b, x, y: b.fsub(x, y))
_operator(operator.mul, floats, floats, 2, lambda b, x, y: b.fmul(x, y))
_operator(operator.truediv, floats, floats, 2, lambda b, x, y: b.fdiv(x, y))
_operator(operator.neg, floats, floats, 1, lambda b, x: b.fneg(x))
for _function, _name in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
):
    _operator(_function, mask, floats, 2, lambda b, x, y, name=_name: b.fcmp_ordered(name, x, y))
_operator(operator.and_, mask, mask, 2, lambda b, x, y: b.and_(x, y))
_operator(operator.or_, mask, mask, 2, lambda b, x, y: b.or_(x, y))
_operator(operator.invert, mask, mask, 1, lambda b, x: b.not_(x))


def _call(builder, name, *args):
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _as_floats(context, builder, kind, value):
    return value if kind == floats else context.cast(builder, value, kind, floats)


def _address(context, builder, array, value, index):
    data = cgutils.create_struct_proxy(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """Sixteen neighbours of a flat contiguous array; the index must not be negative."""

    def codegen(context, builder, sig, args):
        at = context.cast(builder, args[1], sig.args[1], types.intp)
        return builder.load(_address(context, builder, sig.args[0], args[0], at), align=4)

    return floats(array, index), codegen


@intrinsic
def gather(typingctx, array, index, stride):
    """Every `stride`-th of the numbers from an index on; nothing may be negative."""

    def codegen(context, builder, sig, args):
        at = context.cast(builder, args[1], sig.args[1], types.intp)
        step = context.cast(builder, args[2], sig.args[2], types.intp)
        data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
        result = ir.Constant(_FLOATS, ir.Undefined)
        for i in range(WIDTH):
            one = builder.load(builder.gep(data, [at]))
            result = builder.insert_element(result, one, ir.Constant(_i32, i))
            at = builder.add(at, step)
        return result

    return floats(array, index, stride), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Have the memory around an index brought near; it must be inside the array."""

    def codegen(context, builder, sig, args):
        at = context.cast(builder, args[1], sig.args[1], types.intp)
        data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [at]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _i32, _i32, _i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # to read, to stay in all caches, data
        builder.call(function, [pointer, *(ir.Constant(_i32, k) for k in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write sixteen neighbours of a flat contiguous array; the index must not be negative."""

    def codegen(context, builder, sig, args):
        at = context.cast(builder, args[1], sig.args[1], types.intp)
        what = _as_floats(context, builder, sig.args[2], args[2])
        builder.store(what, _address(context, builder, sig.args[0], args[0], at), align=4)

    return types.void(array, index, value), codegen


@intrinsic
def splat(typingctx, value):
    """Sixteen copies of a number."""

    def codegen(context, builder, sig, args):
        return _as_floats(context, builder, sig.args[0], args[0])

    return floats(value), codegen


@intrinsic
def lanes(typingctx, values):
    """A constant vector from a literal tuple of sixteen numbers."""
    if not isinstance(values, types.UniTuple | types.Tuple) or len(values) != WIDTH:
        return None

    def codegen(context, builder, sig, args):
        result = ir.Constant(_FLOATS, ir.Undefined)
        for i, kind in enumerate(sig.args[0]):
            one = context.cast(builder, builder.extract_value(args[0], i), kind, types.float32)
            result = builder.insert_element(result, one, ir.Constant(_i32, i))
        return result

    return floats(values), codegen


def _elementwise(count, emit):
    def build(*kinds):
        def codegen(context, builder, sig, args):
            return emit(
                builder,
                *[_as_floats(context, builder, kind, value) for kind, value in zip(sig.args, args)],
            )

        return floats(*kinds), codegen

    if count == 1:
        return intrinsic(lambda typingctx, x: build(x))
    if count == 2:
        return intrinsic(lambda typingctx, x, y: build(x, y))
    return intrinsic(lambda typingctx, x, y, z: build(x, y, z))


def _choose(relation):
    # Compare and select, not llvm.minnum: one instruction, with the hardware's rule for nan.
    def emit(builder, x, y):
        return builder.select(builder.fcmp_ordered(relation, x, y), x, y)

    return emit


# fmuladd, not fma: without the instruction it becomes two, not a call of the C library.
fma = _elementwise(3, lambda b, x, y, z: _call(b, "llvm.fmuladd.v16f32", x, y, z))
minimum = _elementwise(2, _choose("<"))
maximum = _elementwise(2, _choose(">"))
sqrt = _elementwise(1, lambda b, x: _call(b, "llvm.sqrt.v16f32", x))
ceil = _elementwise(1, lambda b, x: _call(b, "llvm.ceil.v16f32", x))
floor = _elementwise(1, lambda b, x: _call(b, "llvm.floor.v16f32", x))

_EXP2 = (
    1.0,
    0.6931471805599453,
    0.2402265069591007,
    0.05550410866482158,
    0.009618129107628477,
    0.0013333558146428443,
    0.0001540353039338161,
)


def _emit_exp2(builder, x):
    # 1.5 * 2^23 pushes the fraction out of the significand: the nearest integer stays.
    magic = _constant(12582912.0)
    shifted = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(shifted, magic))
    value = _constant(_EXP2[-1])
    for coefficient in reversed(_EXP2[:-1]):
        value = _call(builder, "llvm.fmuladd.v16f32", value, fraction, _constant(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, _INTS), ir.Constant(_INTS, [23] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(value, _INTS), exponent), _FLOATS)


exp2 = _elementwise(1, _emit_exp2)
"""2 to the power x, exact to 2 units in the last place for x in [-100, 100]; rubbish beyond."""


def _emit_log2(builder, x):
    # x = 2^e m with m in [sqrt(.5), sqrt(2)): atanh series in s = (m - 1)/(m + 1)
    bits = builder.bitcast(x, _INTS)
    const = lambda v: ir.Constant(_INTS, [v] * WIDTH)  # noqa: E731
    shifted = builder.sub(bits, const(0x3F3504F3))
    exponent = builder.ashr(shifted, const(23))
    m = builder.bitcast(builder.sub(bits, builder.shl(exponent, const(23))), _FLOATS)
    s = builder.fdiv(builder.fsub(m, _constant(1.0)), builder.fadd(m, _constant(1.0)))
    s2 = builder.fmul(s, s)
    value = _constant(2.8853900817779268 / 9)
    for k in (7, 5, 3, 1):
        value = _call(builder, "llvm.fmuladd.v16f32", value, s2, _constant(2.8853900817779268 / k))
    return _call(builder, "llvm.fmuladd.v16f32", value, s, builder.sitofp(exponent, _FLOATS))


log2 = _elementwise(1, _emit_log2)
"""Logarithm to base 2 of a positive, normal x."""


@intrinsic
def where(typingctx, condition, x, y):
    """X where the mask is set, else y."""

    def codegen(context, builder, sig, args):
        a = _as_floats(context, builder, sig.args[1], args[1])
        b = _as_floats(context, builder, sig.args[2], args[2])
        return builder.select(args[0], a, b)

    return floats(condition, x, y), codegen


@intrinsic
def to_bits(typingctx, condition):
    """The mask as an integer; lane 0 is the lowest bit."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(16)), ir.IntType(64))

    return types.int64(condition), codegen


@intrinsic
def any_of(typingctx, condition):
    """Whether any lane of the mask is set."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.IntType(16))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(16), 0))

    return types.boolean(condition), codegen


@intrinsic
def from_bits(typingctx, bits):
    """The mask whose lane i is bit i of an integer."""

    def codegen(context, builder, sig, args):
        narrow = context.cast(builder, args[0], sig.args[0], types.uint16)
        return builder.bitcast(narrow, _BITS)

    return mask(bits), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """Position of the lowest set bit of a 64 bit integer that is not 0."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(bits), codegen


def _index(values):
    return ir.Constant(ir.VectorType(_i32, WIDTH), values)


# Evens and odds of two vectors, within groups of four lanes and by groups of four: both are
# single instructions, unlike a shuffle across the whole vector.
_EVEN = [4 * g + i for g in range(4) for i in (0, 2, WIDTH, WIDTH + 2)]
_ODD = [i + 1 for i in _EVEN]
_EVEN_GROUPS = [4 * g + i for g in (0, 2, 4, 6) for i in range(4)]
_ODD_GROUPS = [i + 4 for i in _EVEN_GROUPS]


@intrinsic
def sums(typingctx, vectors):
    """The sums of up to sixteen vectors, as one vector, lane i from vector i.

    Adding the even and odd lanes of two vectors at once halves the number of vectors in each
    of four rounds: a third of the instructions of adding up each vector alone.
    """
    count = len(vectors)

    def codegen(context, builder, sig, args):
        rows = [builder.extract_value(args[0], i) for i in range(count)]
        for even, odd in ((_EVEN, _ODD), (_EVEN, _ODD), *[(_EVEN_GROUPS, _ODD_GROUPS)] * 2):
            if len(rows) % 2:
                rows.append(_constant(0.0))
            rows = [
                builder.fadd(
                    builder.shuffle_vector(x, y, _index(even)),
                    builder.shuffle_vector(x, y, _index(odd)),
                )
                for x, y in zip(rows[::2], rows[1::2])
            ]
        return rows[0]

    return floats(vectors), codegen


@intrinsic
def store_rows(typingctx, array, index, vectors):
    """Write up to sixteen vectors as columns: row i of sixteen numbers is their lanes i."""
    count = len(vectors)

    def codegen(context, builder, sig, args):
        rows = [builder.extract_value(args[2], i) for i in range(count)]
        rows += [_constant(0.0)] * (WIDTH - count)
        for step in (1, 2, 4, 8):
            new = list(rows)
            for i in range(WIDTH):
                if i & step:
                    continue
                x, y = rows[i], rows[i + step]
                low = [j if not j & step else WIDTH + j - step for j in range(WIDTH)]
                high = [j + step if not j & step else WIDTH + j for j in range(WIDTH)]
                new[i] = builder.shuffle_vector(x, y, _index(low))
                new[i + step] = builder.shuffle_vector(x, y, _index(high))
            rows = new
        at = context.cast(builder, args[1], sig.args[1], types.intp)
        for i, row in enumerate(rows):
            here = builder.add(at, ir.Constant(at.type, i * WIDTH))
            builder.store(row, _address(context, builder, sig.args[0], args[0], here), align=4)

    return types.void(array, index, vectors), codegen


@intrinsic
def transpose_bits(typingctx, source, index, target, at, stride):
    """Turn sixteen uint16 into sixteen others: bit i of number b is bit b of source i.

    Number b is written to target[at + b * stride].
    """
    word = ir.IntType(16)
    words = ir.VectorType(word, WIDTH)

    def codegen(context, builder, sig, args):
        cast = lambda k: context.cast(builder, args[k], sig.args[k], types.intp)  # noqa: E731
        data = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0]).data
        out = cgutils.create_struct_proxy(sig.args[2])(context, builder, args[2]).data
        here, there, step = cast(1), cast(3), cast(4)
        rows = builder.load(builder.bitcast(builder.gep(data, [here]), words.as_pointer()), align=2)
        for b in range(WIDTH):
            chosen = builder.and_(rows, ir.Constant(words, [1 << b] * WIDTH))
            bits = builder.icmp_unsigned("!=", chosen, ir.Constant(words, [0] * WIDTH))
            builder.store(builder.bitcast(bits, word), builder.gep(out, [there]))
            there = builder.add(there, step)

    return types.void(source, index, target, at, stride), codegen
