"""The table of operators that the importer knows: one function per operator and version.

A function takes the operator's inputs by position, in the order of the ONNX specification and None
where one is absent, and its attributes by name::

    @op("Softmax", since=13)
    def softmax(x, *, axis=-1): ...

Of several versions the newest one not newer than the model's opset is taken. The registered
function, not the bare one, is what an FX node calls; it brings host values and tensors to the form
that the function wants (see :mod:`sparsec.ir.fx.host`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from sparsec.ir.fx import host as hv

#: Module whose attributes the registered functions are: what FX code and pickles name.
OPERATORS_MODULE = "sparsec.ir.fx.operators"


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One operator from one opset on.

    Parameters
    ----------
    name, domain : str
        As in the ONNX node; the domain ``"ai.onnx"`` is written ``""``.
    since : int
        First opset that this function is right for.
    call : callable
        What the FX node calls.
    inputs : tuple of str
        Names of the inputs, in order.
    variadic : bool
        Whether any number of inputs may come.
    attributes : frozenset of str
        Attributes that the function understands; others are refused.
    host_inputs : frozenset of int
        Inputs that are wanted as host values.
    inline_inputs : frozenset of int
        Inputs whose constants, of any type, are written into the call as host values.
    frozen_inputs : frozenset of int
        Inputs that training must not move when they are constants: statistics, scales.
    on_host : bool
        Whether host values give a host value.
    many : bool
        Whether the function returns a tuple of outputs.
    refuse : callable, optional
        Given the node's attributes, says why the function cannot serve it, or None.
    home : str
        Module that defines the function.
    """

    name: str
    domain: str
    since: int
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    variadic: bool
    attributes: frozenset[str]
    host_inputs: frozenset[int]
    inline_inputs: frozenset[int]
    frozen_inputs: frozenset[int]
    on_host: bool
    many: bool
    refuse: Callable[[Mapping[str, Any]], str | None] | None
    home: str

    @property
    def wants_outputs(self) -> bool:
        """Whether the function is told how many outputs the node has."""
        return "n_outputs" in self.attributes


_OPERATORS: dict[tuple[str, str], list[Operator]] = {}

Function = Callable[..., Any]


def op(
    name: str,
    *,
    since: int = 1,
    domain: str = "",
    host: tuple[str, ...] = (),
    loose: tuple[str, ...] = (),
    inline: tuple[str, ...] = (),
    frozen: tuple[str, ...] = (),
    on_host: Function | None = None,
    many: bool = False,
    refuse: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> Callable[[Function], Function]:
    """Register a function as an operator from opset ``since`` on.

    Parameters
    ----------
    host : tuple of str
        Inputs that the function wants as host values, always.
    loose : tuple of str
        Inputs that the function takes as they come, host values or tensors.
    inline : tuple of str
        Loose inputs whose constants, of any type, are to come as host values.
    frozen : tuple of str
        Inputs that are no parameters even when they are float constants.
    on_host : callable, optional
        Takes the function's place when all inputs present are host values; it gets the same
        arguments and returns a host value, or ``NotImplemented`` to decline.
    many : bool
        The function returns a tuple of outputs.
    refuse : callable, optional
        Says from the attributes why a node cannot be served, or returns None.
    """

    def register(function: Function) -> Function:
        parameters = inspect.signature(function).parameters.values()
        inputs = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        attributes = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        if stray := set(host + loose + inline + frozen) - set(inputs):
            raise TypeError(f"{name}: no inputs called {sorted(stray)}")
        host_inputs = frozenset(map(inputs.index, host))
        loose_inputs = frozenset(map(inputs.index, loose + inline))
        inline_inputs = frozenset(map(inputs.index, host + inline))

        @functools.wraps(function)
        def call(*args: Any, **attrs: Any) -> Any:
            if on_host and all(a is None or hv.is_host(a) for a in args):
                result = on_host(*args, **attrs)
                if result is not NotImplemented:
                    return result
            return function(*_place(args, host_inputs, loose_inputs), **attrs)

        call.__name__ = call.__qualname__ = "_".join(
            [*filter(None, [domain.replace(".", "_")]), name, str(since)]
        )
        call.__module__ = OPERATORS_MODULE
        entry = Operator(
            name=name,
            domain=domain,
            since=since,
            call=call,
            inputs=inputs,
            variadic=variadic,
            attributes=attributes,
            host_inputs=host_inputs,
            inline_inputs=inline_inputs,
            frozen_inputs=frozenset(map(inputs.index, frozen)) | inline_inputs,
            on_host=on_host is not None,
            many=many,
            refuse=refuse,
            home=function.__module__,
        )
        versions = _OPERATORS.setdefault((domain, name), [])
        if any(o.since == since for o in versions):
            raise TypeError(f"{name} is registered twice for opset {since}")
        versions.append(entry)
        versions.sort(key=lambda o: o.since)
        return function

    return register


def _place(
    args: tuple[Any, ...], host_inputs: frozenset[int], loose_inputs: frozenset[int]
) -> list[Any]:
    """Make tensors of host values and host values of tensors, and bring tensors to one device."""
    device = None
    for index, arg in enumerate(args):
        if isinstance(arg, torch.Tensor) and index not in host_inputs:
            device = arg.device if device is None or device.type == "cpu" else device
    placed = []
    for index, arg in enumerate(args):
        if index in host_inputs:
            placed.append(hv.to_host(arg))
        elif isinstance(arg, torch.Tensor) and arg.device != device:
            placed.append(arg.to(device))
        elif index in loose_inputs:
            placed.append(arg)
        else:
            placed.append(hv.to_tensor(arg, device))
    return placed


def find(name: str, domain: str, opset: int) -> Operator | None:
    """Return the operator that serves ``name`` at ``opset``, or None."""
    versions = _OPERATORS.get((domain, name), [])
    return next((o for o in reversed(versions) if o.since <= opset), None)


def table() -> list[Operator]:
    """Return every registered operator, sorted by domain, name and version."""
    return [o for key in sorted(_OPERATORS) for o in _OPERATORS[key]]
