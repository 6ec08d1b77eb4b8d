"""A matrix times a vector as a WebAssembly module with SIMD, written out in bytes.

The module multiplies integers: int8 weights with int16 inputs, added up in int32. A page computes the same in plain
JavaScript where a browser lacks SIMD, and integers come out equal bit for bit.

The weights lie in blocks of `ROWS` rows, and each block in chunks of `COLUMNS` columns: the eight weights of the first
row, of the second row, and so on. So the kernel reads them from the first to the last.

Source: the binary format and the opcodes are those of the WebAssembly specification, release 2.0, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence

# As many sums as stay in registers, and as many weights as one instruction extends to int16.
ROWS, COLUMNS = 8, 8

I32, V128 = 0x7F, 0x7B
EMPTY_BLOCK = 0x40
LOOP, END, BRANCH_IF = 0x03, 0x0B, 0x0D
LOCAL_GET, LOCAL_SET, LOCAL_TEE = 0x20, 0x21, 0x22
I32_STORE, I32_CONST, I32_ADD, I32_SUB = 0x36, 0x41, 0x6A, 0x6B
SIMD = 0xFD
V128_LOAD, V128_LOAD8X8_S, V128_CONST = 0, 1, 12
I32X4_EXTRACT_LANE, I32X4_ADD, I32X4_DOT_I16X8_S = 27, 174, 186
# Where a load or store may expect its address: at any multiple of 4 or 8 bytes. It is a hint.
ALIGNED_4, ALIGNED_8 = 2, 3

# The locals: five arguments, two counters, the inputs of a chunk, and the sums of the rows.
WEIGHTS, INPUTS, SUMS, NUM_BLOCKS, NUM_CHUNKS, AT_INPUT, CHUNKS_LEFT, INPUT, FIRST_SUM = range(9)


def module() -> bytes:
    """Return the module.

    It imports a memory, `page.memory`, and exports `multiply(weights, inputs, sums, blocks, chunks)`. The first three
    are addresses in the memory, of int8, int16 and int32; the others say how many blocks of rows and chunks of columns
    there are, at least one each.
    """
    signature = [0x60, *_vector([I32] * 5), *_vector([])]
    memory = [*_name("page"), *_name("memory"), 0x02, 0x00, 0x01]
    exported = [*_name("multiply"), 0x00, 0x00]
    locals_ = [[2, I32], [1 + ROWS, V128]]
    body = [*_vectors(locals_), *_multiply(), END]
    sections = {
        1: _vectors([signature]),
        2: _vectors([memory]),
        3: _vector([0]),
        7: _vectors([exported]),
        10: _vectors([[*_number(len(body)), *body]]),
    }
    code = [byte for number, content in sections.items() for byte in (number, *_number(len(content)), *content)]
    return b"\0asm\1\0\0\0" + bytes(code)


def _multiply() -> list[int]:
    """Return the body: a loop over blocks of rows, and in it a loop over chunks of columns."""
    zeros = [SIMD, V128_CONST, *[0] * 16]
    sums = range(FIRST_SUM, FIRST_SUM + ROWS)
    return [
        *(LOOP, EMPTY_BLOCK),
        *(byte for each in sums for byte in (*zeros, LOCAL_SET, each)),
        *(LOCAL_GET, INPUTS, LOCAL_SET, AT_INPUT),
        *(LOCAL_GET, NUM_CHUNKS, LOCAL_SET, CHUNKS_LEFT),
        *(LOOP, EMPTY_BLOCK),
        *(LOCAL_GET, AT_INPUT, SIMD, V128_LOAD, ALIGNED_8, 0, LOCAL_SET, INPUT),
        *(byte for row, each in enumerate(sums) for byte in _add_products(row, each)),
        *_advance(WEIGHTS, ROWS * COLUMNS),
        *_advance(AT_INPUT, 2 * COLUMNS),
        *_repeat_while(CHUNKS_LEFT),
        END,
        *(byte for row, each in enumerate(sums) for byte in _store(row, each)),
        *_advance(SUMS, 4 * ROWS),
        *_repeat_while(NUM_BLOCKS),
        END,
    ]


def _add_products(row: int, total: int) -> list[int]:
    """Multiply the inputs of a chunk with the weights of a row, and add the products to four sums."""
    return [
        *(LOCAL_GET, total, LOCAL_GET, INPUT),
        *(LOCAL_GET, WEIGHTS, SIMD, V128_LOAD8X8_S, ALIGNED_8, row * COLUMNS),
        *(SIMD, *_number(I32X4_DOT_I16X8_S), SIMD, *_number(I32X4_ADD)),
        *(LOCAL_SET, total),
    ]


def _store(row: int, total: int) -> list[int]:
    """Store the sum of the four sums of a row."""
    lanes = [[LOCAL_GET, total, SIMD, I32X4_EXTRACT_LANE, lane, *([I32_ADD] if lane else [])] for lane in range(4)]
    return [LOCAL_GET, SUMS, *(byte for lane in lanes for byte in lane), I32_STORE, ALIGNED_4, 4 * row]


def _advance(local: int, by: int) -> list[int]:
    return [LOCAL_GET, local, I32_CONST, *_signed(by), I32_ADD, LOCAL_SET, local]


def _repeat_while(counter: int) -> list[int]:
    """Count down, and repeat the innermost loop while something is left."""
    return [LOCAL_GET, counter, I32_CONST, *_signed(1), I32_SUB, LOCAL_TEE, counter, BRANCH_IF, 0]


def _vector(items: Sequence[int]) -> list[int]:
    return [*_number(len(items)), *items]


def _vectors(items: Sequence[Sequence[int]]) -> list[int]:
    return [*_number(len(items)), *(byte for item in items for byte in item)]


def _name(text: str) -> list[int]:
    return _vector(list(text.encode()))


def _number(value: int) -> list[int]:
    """Encode an unsigned number as LEB128."""
    encoded = []
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return [*encoded, value]


def _signed(value: int) -> list[int]:
    """Encode a signed number that is not negative as LEB128: its last byte has a sign bit."""
    encoded = _number(value)
    return [*encoded[:-1], encoded[-1] | 0x80, 0] if encoded[-1] & 0x40 else encoded
