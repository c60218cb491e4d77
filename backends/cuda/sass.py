"""What a cubin really does, read from its machine code.

A Triton kernel that compiles can still be useless: scalar multiplications instead of tensor cores,
or registers spilled to memory. The disassembler that comes with triton tells, without a GPU.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from sparsec.ir.errors import UnsupportedTargetError

# Tensor-core instructions by generation: mma.sync, wgmma, tcgen05; and those of AMD.
_TENSOR = ("HMMA", "HGMMA", "UTCHMMA", "MFMA")
_LOCAL = ("LDL", "STL")
_TENSOR_OF_SM = {90: "HGMMA", 100: "UTCHMMA"}  # every other one runs mma.sync

_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")
_ADDRESS = re.compile(r"0x([0-9a-f]+)")
_INSTRUCTION_BYTES = 16
_Instruction = tuple[str, str, str, str]  # address, predicate, opcode, operands


@dataclasses.dataclass(frozen=True, slots=True)
class CodeReport:
    """Facts about the machine code of one kernel.

    Parameters
    ----------
    registers : int
        Registers a thread.
    stack : int
        Bytes of stack a thread.
    opcodes : Counter
        Static count of every instruction, with its modifiers: ``"LDG.E.128"``.
    loop : int
        Instructions of the largest backward branch: the main loop, prefetches included.
    loops : tuple of Counter
        Opcodes inside every backward branch, inner loops included, in the order of their ends.
    blocks : tuple of tuple of Counter
        For every one of ``loops``, its basic blocks in order: what runs as a whole or not at all.
    ways : tuple of tuple of tuple of int
        For every one of ``blocks``, which later ones of its loop can follow it.
    """

    registers: int
    stack: int
    opcodes: Counter[str]
    loop: int
    loops: tuple[Counter[str], ...] = ()
    blocks: tuple[tuple[Counter[str], ...], ...] = ()
    ways: tuple[tuple[tuple[int, ...], ...], ...] = ()

    def count(self, *bases: str) -> int:
        """Return how many instructions have one of these names, whatever their modifiers."""
        return sum(n for opcode, n in self.opcodes.items() if opcode.split(".")[0] in bases)

    @property
    def tensor_op(self) -> str:
        """The tensor-core instruction in use; empty if there is none."""
        return next((base for base in _TENSOR if self.count(base)), "")

    def loop_per_element(self, elements: int, threads: int) -> float:
        """Return thread instructions for each of ``elements`` dense weights of one loop step."""
        return self.loop * threads / elements


def read_code(cubin: bytes) -> CodeReport:
    """Disassemble a cubin that holds one kernel.

    Raises
    ------
    UnsupportedTargetError
        If the disassembler is missing or cannot read the cubin.
    """
    tool = _cuobjdump()
    with tempfile.TemporaryDirectory(prefix="sparsec-") as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        listing = _run(tool, "-sass", "-res-usage", str(path))
    usage = _USAGE.search(listing)
    found = _INSTRUCTION.findall(listing)
    if usage is None or not found:
        raise UnsupportedTargetError(f"{tool} found no kernel in the compiled code; report this")
    spans = [
        (end - length + 1, end + 1)
        for end, each in enumerate(found)
        if 1 < (length := _jump_back(*each)) <= end + 1
    ]
    names = [opcode for _, _, opcode, _ in found]
    borders, index = _borders(found), _index(found)
    split = [
        list(itertools.pairwise([begin, *(each for each in borders if begin < each < end), end]))
        for begin, end in spans
    ]
    return CodeReport(
        registers=int(usage[1]),
        stack=int(usage[2]),
        opcodes=Counter(names),
        loop=max((_jump_back(*each) for each in found), default=0),
        loops=tuple(Counter(names[begin:end]) for begin, end in spans),
        blocks=tuple(tuple(Counter(names[first:last]) for first, last in parts) for parts in split),
        ways=tuple(
            tuple(
                tuple(later for later in range(at + 1, len(parts)) if parts[later][0] in next_ones)
                for at, (_, last) in enumerate(parts)
                for next_ones in [_following(found[last - 1], last, index)]
            )
            for parts in split
        ),
    )


def check_code(
    report: CodeReport,
    name: str,
    sm: int,
    tensor_op: str | None = None,
    known_good: str = "pip install triton==3.9.0",
) -> None:
    """Accept only code that runs on tensor cores and keeps everything in registers.

    Parameters
    ----------
    tensor_op : str, optional
        The instruction that has to be there, empty for none; the fastest that triton emits for
        ``sm`` if absent.
    known_good : str
        A compiler that is known to do better, for the message.

    Raises
    ------
    UnsupportedTargetError
        If it does not: another version of triton may do better, a warning would not.
    """
    wanted = _TENSOR_OF_SM.get(sm, "HMMA") if tensor_op is None else tensor_op
    problems = []
    if wanted and not report.count(wanted):
        problems.append(f"it has no {wanted} instruction")
    if report.stack:
        problems.append(f"it uses {report.stack} bytes of stack a thread")
    if local := report.count(*_LOCAL):
        problems.append(f"it spills registers ({local} local loads and stores)")
    if problems:
        raise UnsupportedTargetError(
            f"kernel {name}: the installed compiler made bad code of it: "
            f"{'; '.join(problems)}. Known to work: {known_good}",
            where=name,
        )


def _index(found: list[_Instruction]) -> dict[int, int]:
    """Return the number of an instruction by its address."""
    return {int(address, 16): at for at, (address, *_) in enumerate(found)}


def _following(last: _Instruction, behind: int, index: dict[int, int]) -> set[int]:
    """Return the instructions that can follow the last one of a block; ``behind`` is the next one."""
    _, guard, opcode, rest = last
    base, target = opcode.split(".")[0], _ADDRESS.search(rest)
    ends = base in ("BRA", "EXIT", "RET")
    found = {behind} if guard or not ends or "," in rest else set()  # BRA.U UP0, 0x...
    return found | ({index.get(int(target[1], 16), 0)} if base == "BRA" and target else set())


def _borders(found: list[_Instruction]) -> list[int]:
    """Return where basic blocks start: at what branches name, and behind branches."""
    index = _index(found)
    starts = {0}
    for at, (_, _, opcode, rest) in enumerate(found):
        base = opcode.split(".")[0]
        if base in ("BRA", "BSSY", "CALL") and (target := _ADDRESS.search(rest)):
            starts.add(index.get(int(target[1], 16), 0))
        if base in ("BRA", "EXIT", "RET"):
            starts.add(at + 1)
    return sorted(starts)


def _jump_back(address: str, _: str, opcode: str, rest: str) -> int:
    """Return how many instructions a branch goes back over, itself included; 0 for others."""
    target = _ADDRESS.search(rest) if opcode.split(".")[0] == "BRA" else None
    if target is None:
        return 0
    return max(0, (int(address, 16) - int(target[1], 16)) // _INSTRUCTION_BYTES + 1)


def _cuobjdump() -> Path:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not path.is_file():
        raise UnsupportedTargetError(
            f"the installed triton {triton.__version__} has no disassembler at {path}, without "
            "which compiled code cannot be checked: pip install --force-reinstall triton"
        )
    return path


def _run(tool: Path, *arguments: str) -> str:
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnsupportedTargetError(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout
