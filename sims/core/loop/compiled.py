"""An update as a graph on the CPU: the operations that it calls are recorded, and compiled into a few loops of C++.

What a CUDA graph saves on a GPU, Python between the kernels, this saves on a CPU; and numbers that several operations
in a row read and write stay in registers. It needs a C++ compiler, and some seconds for each graph.

What an update does besides operations of PyTorch would be left out, so that it is refused: numbers that Python or NumPy
reads, and operations that make as many numbers as others say.
"""

from __future__ import annotations

import gc
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from sims.core.numerics.recorded import recording

_Compiled = Callable[..., Any]
_READS = "it reads a number of a tensor"


def by_inductor(graph: fx.GraphModule) -> _Compiled:
    """The graph as machine code. It is called on the same tensors each time, which therefore are not looked at."""
    trusting: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    return torch.compile(graph, fullgraph=True, dynamic=False, options=trusting)


class CompiledGraph(TorchDispatchMode):
    """Operations, recorded as they are called and called again as one function of the tensors that they read.

    Unlike CUDA's, a capture also does what it records, so that the first replay does nothing. `compiled` makes the
    function; in tests the recorded graph itself, which has the bits of the operations.
    """

    def __init__(self, before: CompiledGraph | None = None, compiled: Callable[[Any], _Compiled] = by_inductor) -> None:
        super().__init__()
        self._make = compiled
        self._graph, self._nodes = fx.Graph(), WeakTensorKeyDictionary()
        self._given: dict[fx.Node, Tensor] = {}  # what was there before, and is read or written
        self._written: list[Tensor] = []
        self._call: _Compiled | None = None
        self._arguments: list[Tensor] = []
        self._done = False

    def capture(self, work: Callable[[], None]) -> None:
        with recording(), _Unread(), self:
            work()
        gc.collect()  # what only a cycle holds is not kept
        for x in _one_of_each_place(list(self._nodes), list(self._given.values())):
            made, shared = self._nodes[x], x
            for axis in range(x.dim()):
                if x.stride(axis) == 0 and x.shape[axis] > 1:  # expanded: one slot is written
                    made = self._graph.call_function(torch.ops.aten.slice.Tensor, (made, axis, 0, 1))
                    shared = shared.narrow(axis, 0, 1)
            self._graph.call_function(torch.ops.aten.copy_.default, (self._input(shared), made))
            self._written.append(x)
        self._graph.output(None)
        self._call = self._make(fx.GraphModule(torch.nn.Module(), self._graph))
        # Detached: a view of a parameter may have been made without gradient.
        self._arguments = [self._given[node].detach() for node in self._graph.nodes if node.op == "placeholder"]
        self._nodes = WeakTensorKeyDictionary()

    @torch.no_grad()
    def replay(self) -> None:
        if not self._done:
            self._done = True
            return
        assert self._call is not None
        self._call(*self._arguments)
        for x in self._written:  # who keeps what was computed from it sees that it has changed
            torch.autograd.graph.increment_version(x)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in function.tags:
            raise RuntimeError(_READS)
        picks = function is torch.ops.aten.index.Tensor
        masks = picks and any(x is not None and x.dtype == torch.bool for x in args[1])
        if masks or (not picks and torch.Tag.dynamic_output_shape in function.tags):
            raise RuntimeError(f"{function.__name__} makes as many numbers as others say")
        found = function(*args, **(kwargs or {}))
        inputs, options = tree_map(self._node_of, args), tree_map(self._node_of, kwargs or {})
        node = self._graph.call_function(function, inputs, options)
        for i, x in enumerate(found if isinstance(found, (tuple, list)) else [found]):
            if isinstance(x, Tensor):
                own = self._graph.call_function(operator.getitem, (node, i)) if found is not x else node
                self._nodes[x] = own
        self._note_written(function._schema, args, kwargs or {})
        return found

    def _node_of(self, x: Any) -> Any:
        """The node of a tensor, a new input where nothing that was recorded has made it; anything else as it is."""
        if not isinstance(x, Tensor):
            return x
        if x not in self._nodes:
            self._nodes[x] = self._input(x)
        return self._nodes[x]

    def _input(self, x: Tensor) -> fx.Node:
        """A new argument, before all calls."""
        first = next((node for node in self._graph.nodes if node.op != "placeholder"), None)
        with self._graph.inserting_before(first):
            node = self._graph.placeholder(f"given_{len(self._given)}")
        self._given[node] = x
        return node

    def _note_written(self, schema: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if not schema.is_mutable:
            return
        values = dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        for argument in schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = [x for x in tree_leaves(values.get(argument.name)) if isinstance(x, Tensor)]
                places = {x.untyped_storage().data_ptr() for x in written}
                for x in self._given.values():
                    if x.untyped_storage().data_ptr() in places and not any(x is y for y in self._written):
                        self._written.append(x)


class _Unread(TorchFunctionMode):
    """Inside it no number of a tensor can be read, other than by an operation that is dispatched."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise RuntimeError(_READS)
        return function(*args, **(kwargs or {}))


def _one_of_each_place(made: list[Tensor], given: list[Tensor]) -> list[Tensor]:
    """Of tensors that are still held when an update is over, those whose memory holds all others: what a later reader
    finds in it must be that of the last replay. given: tensors that are written where they are."""
    places = {x.untyped_storage().data_ptr() for x in given}
    largest: dict[int, Tensor] = {}
    for x in made:
        place = x.untyped_storage().data_ptr()
        if x.numel() > 0 and place not in places and _slots(x) > _slots(largest.get(place)):
            largest[place] = x
    return list(largest.values())


def _slots(x: Tensor | None) -> int:
    """How many numbers of its own a tensor has: an expanded axis repeats its one."""
    if x is None:
        return 0
    return math.prod(1 if stride == 0 else size for size, stride in zip(x.shape, x.stride(), strict=True))
