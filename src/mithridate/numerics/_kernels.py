"""The inner loops as LLVM text: order statistics in registers, Gram tiles in the first-level cache, mixtures of rows.

    statistic   for 16 columns at a time: load n registers, sort them by a network, store one
    gram        for a block of columns: subtract the pivot into the cache, then tiles of at most 5 x 5 inner products,
                added per lane in the rows' type over 4096 columns and in float64 from there on
    mixture     for 32 columns at a time: tiles of 6 results

(16 columns are one register of 512 bits; other machines have other widths.) Rows are given by their addresses, so that
lists of rows are as good as one tensor. Half types are converted as they are loaded, and computed with in float32.
"""

import struct
from collections.abc import Sequence
from functools import cache

import torch

from mithridate.numerics._llvm import Function, compiled, target
from mithridate.numerics.ranks import AbstractAlgebra, Statistic, compute

_PREFETCH = 512
"""Bytes ahead: with many rows the hardware's own prefetchers lose track."""
_TILE = 5
_CACHE = 24 << 10
_FLUSH = 4096
_RESULTS = 6


class Text(AbstractAlgebra[str]):
    """LLVM text under construction, and the algebra of its vector registers.

    Args:
        stored: The type of the rows.
    """

    def __init__(self, stored: torch.dtype) -> None:
        self.stored = stored
        self.double = stored == torch.float64
        self.size = 8 if self.double else 4
        self.lanes = target().vector_bytes // self.size
        self.scalar = "double" if self.double else "float"
        self.vector = f"<{self.lanes} x {self.scalar}>"
        self.lines: list[str] = []
        self._count = 0

    def put(self, line: str) -> None:
        """Append a line that has no result."""
        self.lines.append(line)

    def let(self, operation: str) -> str:
        """Append an operation and return the name of its result."""
        self._count += 1
        self.lines.append(f"%t{self._count} = {operation}")
        return f"%t{self._count}"

    def splat(self, number: float) -> str:
        """Return a constant in every lane."""
        bits = struct.unpack(">Q", struct.pack(">d", number))[0]
        return "<" + ", ".join([f"{self.scalar} 0x{bits:016X}"] * self.lanes) + ">"

    def at(self, base: str, index: str, kind: str | None = None) -> str:
        """Return the address of an element."""
        return self.let(f"getelementptr {kind or self.scalar}, ptr {base}, i64 {index}")

    def load(self, base: str, index: str) -> str:
        """Load a vector of computed values."""
        return self.let(f"load {self.vector}, ptr {self.at(base, index)}, align {self.size}")

    def store(self, value: str, base: str, index: str) -> None:
        """Store a vector of computed values."""
        self.put(f"store {self.vector} {value}, ptr {self.at(base, index)}, align {self.size}")

    def row(self, base: str, index: str) -> str:
        """Load a vector of a row, from its own type."""
        if self.stored in (torch.float32, torch.float64):
            return self.load(base, index)
        narrow = f"<{self.lanes} x {'half' if self.stored == torch.float16 else 'i16'}>"
        value = self.let(f"load {narrow}, ptr {self.at(base, index, 'i16')}, align 2")
        if self.stored == torch.float16:
            return self.let(f"fpext {narrow} {value} to {self.vector}")
        wide = self.let(f"zext {narrow} {value} to <{self.lanes} x i32>")
        sixteen = "<" + ", ".join(["i32 16"] * self.lanes) + ">"
        return self.let(
            f"bitcast <{self.lanes} x i32> {self.let(f'shl <{self.lanes} x i32> {wide}, {sixteen}')} to {self.vector}"
        )

    def prefetch(self, base: str, index: str) -> None:
        """Ask for what a row has a little later."""
        width = 8 if self.stored == torch.float64 else self.stored.itemsize
        ahead = self.let(f"getelementptr i8, ptr {self.at(base, index, f'i{8 * width}')}, i64 {_PREFETCH}")
        self.put(f"call void @llvm.prefetch.p0(ptr {ahead}, i32 0, i32 3, i32 1)")

    def fma(self, a: str, b: str, c: str) -> str:
        """Return a * b + c."""
        v = self.vector
        return self.let(f"call {v} @{self._fma}({v} {a}, {v} {b}, {v} {c})")

    def broadcast(self, base: str, index: str) -> str:
        """Load one number into every lane."""
        one = self.let(f"load {self.scalar}, ptr {self.at(base, index)}, align {self.size}")
        first = self.let(f"insertelement {self.vector} poison, {self.scalar} {one}, i64 0")
        return self.let(
            f"shufflevector {self.vector} {first}, {self.vector} poison, <{self.lanes} x i32> zeroinitializer"
        )

    def lesser(self, a: str, b: str) -> str:
        """Return the smaller of two values."""
        return self.if_less(a, b, a, b)

    def greater(self, a: str, b: str) -> str:
        """Return the greater of two values."""
        return self.if_less(a, b, b, a)

    def add(self, a: str, b: str) -> str:
        """Return the sum."""
        return self.let(f"fadd {self.vector} {a}, {b}")

    def subtract(self, a: str, b: str) -> str:
        """Return the difference."""
        return self.let(f"fsub {self.vector} {a}, {b}")

    def halve(self, a: str) -> str:
        """Return one half."""
        return self.let(f"fmul {self.vector} {a}, {self.splat(0.5)}")

    def divide(self, a: str, count: int) -> str:
        """Return the quotient."""
        return self.let(f"fdiv {self.vector} {a}, {self.splat(count)}")

    def if_less(self, a: str, b: str, then: str, otherwise: str) -> str:
        """Return `then` where a < b."""
        mask = self.let(f"fcmp olt {self.vector} {a}, {b}")
        return self.let(f"select <{self.lanes} x i1> {mask}, {self.vector} {then}, {self.vector} {otherwise}")

    @property
    def _fma(self) -> str:
        return f"llvm.fma.v{self.lanes}f{8 * self.size}"

    def function(self, arguments: str, letters: str) -> Function:
        """Close the text as the function `kernel` with these arguments, and compile it."""
        v = self.vector
        width = 8 * target().vector_bytes
        text = [
            f"define void @kernel({arguments}) #0 {{",
            "entry:",
            *self.lines,
            "ret void",
            "}",
            f"declare {v} @{self._fma}({v}, {v}, {v})",
            "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)",
            "declare i64 @llvm.smin.i64(i64, i64)",
            f'attributes #0 = {{ nounwind "min-legal-vector-width"="{width}" "prefer-vector-width"="{width}" }}',
        ]
        return compiled("\n".join(text), "kernel", letters)

    def pointers(self, base: str, count: int) -> list[str]:
        """Load that many addresses."""
        return [self.let(f"load ptr, ptr {self.at(base, str(index), 'ptr')}") for index in range(count)]


class Loop:
    """A loop of LLVM text: made, its body written, then closed.

    Args:
        text: Where.
        name: A name for its labels, unique in the function.
        bounds: First value, end and step of the counter.
        carried: Types and first values of what one turn passes to the next.
        before: The label of the block in which the loop is entered.
    """

    def __init__(
        self,
        text: Text,
        name: str,
        bounds: tuple[str, str, str],
        carried: Sequence[tuple[str, str]] = (),
        *,
        before: str,
    ) -> None:
        self.text, self.name, self.carried = text, name, carried
        first, self.end, self.step = bounds
        self.index = f"%{name}.i"
        self.values = [f"%{name}.c{place}" for place in range(len(carried))]
        text.put(f"br label %{name}.head\n{name}.head:")
        text.put(f"{self.index} = phi i64 [{first}, %{before}], [{self.index}.next, %{name}.latch]")
        for value, (kind, start) in zip(self.values, carried, strict=True):
            text.put(f"{value} = phi {kind} [{start}, %{before}], [{value}.next, %{name}.latch]")
        text.put(f"%{name}.go = icmp slt i64 {self.index}, {self.end}")
        text.put(f"br i1 %{name}.go, label %{name}.body, label %{name}.done\n{name}.body:")
        self.body = f"{name}.body"

    def close(self, values: Sequence[str] = ()) -> str:
        """Finish the body, given what it passes on, and return the label of the block after the loop."""
        self.text.put(f"br label %{self.name}.latch\n{self.name}.latch:")
        for value, (kind, _), new in zip(self.values, self.carried, values, strict=True):
            self.text.put(f"{value}.next = select i1 true, {kind} {new}, {kind} {new}")
        self.text.put(f"{self.index}.next = add i64 {self.index}, {self.step}")
        self.text.put(f"br label %{self.name}.head\n{self.name}.done:")
        return f"{self.name}.done"


def lanes(stored: torch.dtype) -> int:
    """Return how many columns of rows of a type are computed with at once."""
    return target().vector_bytes // (8 if stored == torch.float64 else 4)


def loads(stored: torch.dtype) -> bool:
    """Tell whether kernels read rows of a type directly."""
    return stored in (torch.float32, torch.float64, torch.bfloat16) or (stored == torch.float16 and target().half)


@cache
def statistic_kernel(n: int, statistic: Statistic, stored: torch.dtype) -> Function:
    """Return `kernel(rows, begin, end, out, flag)`; `flag` is one vector, zero unless a value was not finite."""
    text = Text(stored)
    pointers = text.pointers("%rows", n)
    loop = Loop(
        text, "columns", ("%begin", "%end", str(text.lanes)), [(text.vector, "zeroinitializer")], before="entry"
    )
    seen, values, top = loop.values[0], [], text.splat(float("inf"))
    for pointer in pointers:
        text.prefetch(pointer, loop.index)
        value = text.row(pointer, loop.index)
        seen = text.fma(value, "zeroinitializer", seen)
        values.append(text.if_less(value, top, value, top))  # NaN is not less
    text.store(compute(text, values, statistic), "%out", loop.index)
    loop.close([seen])
    text.store(loop.values[0], "%flag", "0")
    return text.function("ptr %rows, i64 %begin, i64 %end, ptr %out, ptr %flag", "piipp")


def gram_scratch(k: int, stored: torch.dtype) -> tuple[int, int]:
    """Return the numbers of computed values in the scratch space and of float64 results of a Gram kernel."""
    text = Text(stored)
    pairs = k * (k + 1) // 2
    return k * _block(k, text) + pairs * text.lanes, pairs * text.lanes


def _block(k: int, text: Text) -> int:
    return max(1, _CACHE // (text.size * k * text.lanes)) * text.lanes


def _tiles(k: int) -> list[range]:
    count = -(-k // _TILE)
    edges = [k * place // count for place in range(count + 1)]
    return [range(edges[place], edges[place + 1]) for place in range(count)]


@cache
def gram_pairs(k: int) -> tuple[tuple[int, int], ...]:
    """Return the pairs of rows in the order of a Gram kernel's results."""
    tiles = _tiles(k)
    return tuple((i, j) for a, left in enumerate(tiles) for right in tiles[a:] for i in left for j in right if i <= j)


@cache
def gram_kernel(k: int, stored: torch.dtype) -> Function:
    """Return `kernel(rows, pivot, begin, end, scratch, total)`: adds to `total`, a vector of float64 for each pair.

    The k rows are the k - 1 given ones minus the pivot, and the pivot itself. `scratch` begins as zeros.
    """
    text = Text(stored)
    block, pairs = _block(k, text), gram_pairs(k)
    pointers = text.pointers("%rows", k - 1)
    sums = text.at("%scratch", str(k * block))
    group = max(1, _FLUSH // block) * block
    outer = Loop(text, "group", ("%begin", "%end", str(group)), before="entry")
    stop = _least(text, outer.index, group, "%end")
    inner = Loop(text, "block", (outer.index, stop, str(block)), before=outer.body)
    width = text.let(f"sub i64 {_least(text, inner.index, block, stop)}, {inner.index}")
    before = _centre(text, pointers, inner, width, block)
    place = 0
    tiles = _tiles(k)
    for a, left in enumerate(tiles):
        for b, right in enumerate(tiles[a:], start=a):
            before, place = _tile(text, (left, right), (f"tile.{a}.{b}", before), (width, block, sums), place)
    inner.close()
    _flush(text, sums, len(pairs), before=f"{inner.name}.done")
    outer.close()
    return text.function("ptr %rows, ptr %pivot, i64 %begin, i64 %end, ptr %scratch, ptr %total", "ppiipp")


def _least(text: Text, start: str, size: int, end: str) -> str:
    stop = text.let(f"add i64 {start}, {size}")
    return text.let(f"call i64 @llvm.smin.i64(i64 {stop}, i64 {end})")


def _centre(text: Text, pointers: list[str], outer: Loop, width: str, block: int) -> str:
    loop = Loop(text, "centre", ("0", width, str(text.lanes)), before=outer.body)
    column = text.let(f"add i64 {outer.index}, {loop.index}")
    pivot = text.row("%pivot", column)
    for number, pointer in enumerate(pointers):
        text.prefetch(pointer, column)
        row = text.let(f"add i64 {loop.index}, {number * block}")
        text.store(text.subtract(text.row(pointer, column), pivot), "%scratch", row)
    text.store(pivot, "%scratch", text.let(f"add i64 {loop.index}, {len(pointers) * block}"))
    return loop.close()


def _tile(
    text: Text, sides: tuple[range, range], where: tuple[str, str], memory: tuple[str, int, str], place: int
) -> tuple[str, int]:
    """Append the inner products of two groups of rows; return the label after it and the next free place."""
    (left, right), (name, before), (width, block, sums) = sides, where, memory
    pairs = [(i, j) for i in left for j in right if i <= j]
    places = [str((place + offset) * text.lanes) for offset in range(len(pairs))]
    starts = [(text.vector, text.load(sums, at)) for at in places]
    loop = Loop(text, name, ("0", width, str(text.lanes)), starts, before=before)
    rows = {
        row: text.load("%scratch", text.let(f"add i64 {loop.index}, {row * block}")) for row in sorted({*left, *right})
    }
    found = [text.fma(rows[i], rows[j], value) for (i, j), value in zip(pairs, loop.values, strict=True)]
    after = loop.close(found)
    for value, at in zip(loop.values, places, strict=True):
        text.store(value, sums, at)
    return after, place + len(pairs)


def _flush(text: Text, sums: str, pairs: int, *, before: str) -> None:
    """Move the sums into the float64 totals."""
    wide = f"<{text.lanes} x double>"
    loop = Loop(text, "flush", ("0", str(pairs * text.lanes), str(text.lanes)), before=before)
    value = text.load(sums, loop.index)
    text.store("zeroinitializer", sums, loop.index)
    at = text.at("%total", loop.index, "double")
    old = text.let(f"load {wide}, ptr {at}, align 8")
    exact = value if text.double else text.let(f"fpext {text.vector} {value} to {wide}")
    text.put(f"store {wide} {text.let(f'fadd {wide} {old}, {exact}')}, ptr {at}, align 8")
    loop.close()


@cache
def mixture_kernel(stored: torch.dtype) -> Function:
    """Return `kernel(rows, n, weights, l, begin, end, out, stride)` for l results, each `stride` values after the last.

    The weights are those of the first row for every result, then those of the second row and so on. The columns
    [begin, end) of `out` begin at its first value; their number is a multiple of two vectors.
    """
    text = Text(stored)
    columns = Loop(text, "columns", ("%begin", "%end", str(2 * text.lanes)), before="entry")
    before = columns.body
    offset = text.let(f"sub i64 {columns.index}, %begin")
    whole = text.let(f"sub i64 %l, {text.let(f'srem i64 %l, {_RESULTS}')}")
    for name, bounds, size in (("many", ("0", whole), _RESULTS), ("one", (whole, "%l"), 1)):
        results = Loop(text, name, (*bounds, str(size)), before=before)
        zero = [(text.vector, "zeroinitializer")] * (2 * size)
        terms = Loop(text, f"{name}.terms", ("0", "%n", "1"), zero, before=results.body)
        pointer = text.let(f"load ptr, ptr {text.at('%rows', terms.index, 'ptr')}")
        second = text.let(f"add i64 {columns.index}, {text.lanes}")
        values, found = (text.row(pointer, columns.index), text.row(pointer, second)), []
        first = text.at("%weights", text.let(f"add i64 {text.let(f'mul i64 {terms.index}, %l')}, {results.index}"))
        for result in range(size):
            weight = text.broadcast(first, str(result))
            found += [text.fma(value, weight, terms.values[2 * result + side]) for side, value in enumerate(values)]
        terms.close(found)
        for result in range(size):
            start = text.let(f"mul i64 {text.let(f'add i64 {results.index}, {result}')}, %stride")
            at = text.let(f"add i64 {start}, {offset}")
            text.store(terms.values[2 * result], "%out", at)
            text.store(terms.values[2 * result + 1], "%out", text.let(f"add i64 {at}, {text.lanes}"))
        before = results.close()
    columns.close()
    return text.function(
        "ptr %rows, i64 %n, ptr %weights, i64 %l, i64 %begin, i64 %end, ptr %out, i64 %stride", "pipiiipi"
    )
