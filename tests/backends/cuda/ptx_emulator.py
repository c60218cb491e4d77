"""Evaluates the straight-line inline assembly of a kernel, as it stands in its source.

Triton's interpreter cannot. Only what the decoders use is known; anything else is an error.
"""

from __future__ import annotations

import re

import numpy as np

MASK = {32: 0xFFFFFFFF, 64: 0xFFFFFFFFFFFFFFFF}
_OPERAND = re.compile(r"\{[^}]*\}|[^,\s]+")


def assembly(source: str, function: str) -> str:
    """Return the assembly text inside a function of a kernel's source."""
    body = source.split(f"def {function}(", 1)[1].split("\n@triton.jit", 1)[0]
    return body.split("inline_asm_elementwise(", 1)[1].split('"""')[1]


def prmt(a: int, b: int, selector: int) -> int:
    """PTX ``prmt.b32`` in its default mode: byte i of the result is byte selector[i] of (b, a)."""
    pool = a | b << 32
    picked = 0
    for i in range(4):
        nibble = selector >> 4 * i & 0xF
        assert nibble < 8, "bit 3 would replicate the sign"
        picked |= (pool >> 8 * nibble & 0xFF) << 8 * i
    return picked


def lop3(a: int, b: int, c: int, table: int) -> int:
    """PTX ``lop3.b32``: bit by bit, the entry of the table that the bits of a, b and c number."""
    result = 0
    for entry in range(8):
        if table >> entry & 1:
            x, y, z = (v if entry >> at & 1 else ~v for v, at in ((a, 2), (b, 1), (c, 0)))
            result |= x & y & z
    return result & MASK[32]


def subtract_halves(a: int, b: int) -> int:
    """PTX ``sub.rn.f16x2``."""
    x, y = (np.array([v & 0xFFFF, v >> 16], np.uint16).view(np.float16) for v in (a, b))
    low, high = (x - y).view(np.uint16).tolist()
    return low | high << 16


def run(text: str, outputs: int, *inputs: int) -> list[int]:
    """Return the values of ``$0`` to ``$outputs - 1`` as unsigned bits."""
    registers = {f"${outputs + i}": value & MASK[32] for i, value in enumerate(inputs)}
    for line in re.findall(r"([a-z][\w.]*\s[^;]+);", re.sub(r"\.reg[^;]*;", "", text)):
        opcode, rest = line.split(None, 1)
        _step(opcode.split("."), _OPERAND.findall(rest), registers)
    return [registers[f"${i}"] for i in range(outputs)]


def _step(opcode: list[str], operands: list[str], registers: dict[str, int]) -> None:
    def value(name: str) -> int:
        if name.startswith("{"):
            low, high = name.strip("{}").replace(" ", "").split(",")
            return registers[low] | registers[high] << 32
        return int(name, 0) if name[0].isdigit() else registers[name]

    target, *names = operands
    bits = 64 if opcode[-1].endswith("64") else 32
    if opcode[0] == "mov" and target.startswith("{"):
        low, high = target.strip("{}").replace(" ", "").split(",")
        part = bits // 2
        registers[low] = value(names[0]) & (1 << part) - 1
        registers[high] = value(names[0]) >> part
        return
    sources = [value(name) for name in names]
    match opcode:
        case ["mov", _]:
            result = sources[0]
        case ["cvt", "u32", "u64"]:
            result = sources[0] & MASK[32]
        case ["and", _]:
            result = sources[0] & sources[1]
        case ["xor", _]:
            result = sources[0] ^ sources[1]
        case ["add", _]:
            result = sources[0] + sources[1]
        case ["sub", "u32"]:
            result = sources[0] - sources[1]
        case ["sub", "rn", "f16x2"]:
            result = subtract_halves(*sources)
        case ["shl", _]:
            result = sources[0] << sources[1]
        case ["shr", "u32" | "u64"]:
            result = sources[0] >> sources[1]
        case ["shf", "r", "clamp", "b32"]:
            result = (sources[0] | sources[1] << 32) >> min(sources[2], 32)
        case ["shf", "l", "wrap", "b32"]:
            result = (sources[0] | sources[1] << 32) << (sources[2] & 31) >> 32
        case ["lop3", "b32"]:
            result = lop3(*sources)
        case ["prmt", "b32"]:
            result = prmt(*sources)
        case _:
            raise AssertionError(f"the emulator does not know {'.'.join(opcode)}")
    registers[target] = result & MASK[bits]
