"""What an AMD kernel really does, read from the assembly that triton emits beside its binary."""

from __future__ import annotations

import re
from collections import Counter

from sparsec.backends.cuda.sass import CodeReport
from sparsec.ir.errors import UnsupportedTargetError

_FACT = r"\.{}:\s+(\d+)"
_INSTRUCTION = re.compile(
    r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|scratch_\w+)\b", re.MULTILINE
)
_LABEL = re.compile(r"^(\.LBB\w+):", re.MULTILINE)
_BRANCH = re.compile(r"^\s+s_c?branch\w*\s+(\.LBB\w+)", re.MULTILINE)


def read_amdgcn(assembly: str) -> CodeReport:
    """Read the assembly of one kernel.

    Matrix instructions are counted as ``MFMA``, accesses of spilled registers as ``LDL``.

    Raises
    ------
    UnsupportedTargetError
        If it does not say how many registers and how much stack the kernel takes.
    """
    registers, stack, spilled = (
        re.search(_FACT.format(name), assembly)
        for name in ("vgpr_count", "private_segment_fixed_size", "vgpr_spill_count")
    )
    if registers is None or stack is None or spilled is None:
        raise UnsupportedTargetError(
            "the compiled AMD code does not tell its registers; report this"
        )
    found = Counter(_INSTRUCTION.findall(assembly))
    opcodes: Counter[str] = Counter()
    for opcode, count in found.items():
        name = opcode
        if opcode.startswith("v_mfma"):
            name = f"MFMA.{opcode}"
        elif opcode.startswith("scratch_"):
            name = f"LDL.{opcode}"
        opcodes[name] += count
    return CodeReport(int(registers[1]), int(stack[1]), opcodes, _loop(assembly))


def _loop(assembly: str) -> int:
    """Return the instructions of the largest backward branch."""
    labels = {match[1]: match.end() for match in _LABEL.finditer(assembly)}
    longest = 0
    for branch in _BRANCH.finditer(assembly):
        start = labels.get(branch[1], len(assembly))
        if start < branch.start():
            longest = max(longest, len(_INSTRUCTION.findall(assembly, start, branch.end())))
    return longest
