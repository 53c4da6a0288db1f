"""What cannot be compiled, all of it at once, each with its place in the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from slth_compile.errors import UnsupportedModelError
from slth_compile.frontends.draft import Entry, Unknown
from slth_compile.frontends.sites import Site
from slth_compile.graph import nodes as n

_HINTS = {
    "while": "a loop over activations (lax.while_loop, fori_loop); unroll it in Python",
    "cond": "a branch that depends on the input (lax.cond, lax.switch)",
}
_FUNCTIONS = {
    **dict.fromkeys(("elu", "celu", "selu"), "an exponential linear unit; use leaky_relu, silu or gelu"),
    **dict.fromkeys(("softplus", "squareplus", "sparse_plus"), "a softened relu; use relu, silu or gelu"),
    **dict.fromkeys(("mish", "log_sigmoid", "soft_sign"), "no node computes it; use tanh, sigmoid, silu or gelu"),
    "hard_tanh": "write it as jnp.clip(x, -1, 1)",
}
"""What to do about functions of the libraries, by their names."""


@dataclasses.dataclass(eq=False)
class _Problem:
    site: Site
    operations: dict[str, None]
    reasons: dict[str, None]

    def __str__(self) -> str:
        primitives = [name for name in self.operations if name != self.site.operation]
        made_of = f" [{', '.join(primitives)}]" if primitives else ""
        hint = _FUNCTIONS.get(self.site.operation)
        reasons = f": {hint or '; '.join(self.reasons)}" if hint or self.reasons else ""
        return f"{self.site.operation or 'operation'}{made_of} at {self.site}{reasons}"


def refuse_unsupported(entries: Sequence[Entry], parameters: Iterable[str], outputs: Sequence[str] = ()) -> None:
    """Refuses a target that is not made of target nodes alone.

    Args:
        entries: The rewritten draft.
        parameters: Names of all floating point parameters of the model.
        outputs: What is wrong with the outputs where the operations themselves are fine.

    Raises:
        UnsupportedModelError: Unknown operations, parameters that reach no node, no weighted layer; all in one message.
    """
    lines = [str(problem) for problem in _problems(entries)]
    used = frozenset().union(*(entry.leaves for entry in entries))
    lines += [
        f"parameter '{name}' reaches no node: the model's output does not depend on it, or through a loop; "
        "leave it out or use it"
        for name in parameters
        if name not in used
    ]
    if not any(isinstance(entry.node, n.Convolution | n.Dense) for entry in entries) and not lines:
        lines.append("no weighted layer: no convolution or dense layer with a parameter as kernel")
    lines = lines or list(outputs)
    if lines:
        raise UnsupportedModelError("unsupported model:\n  " + "\n  ".join(lines))


def _problems(entries: Sequence[Entry]) -> list[_Problem]:
    """Unknown operations, those of one library call put together: connected, at one site, no layer between them."""
    root: dict[int, int] = {}

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, entry in enumerate(entries):
        near = {find(j) for j in entry.node.inputs if j in root and entries[j].site == entry.site}
        if isinstance(entry.node, Unknown) or (near and not isinstance(entry.node, n.Convolution | n.Dense)):
            root[i] = min(near, default=i)
            root.update(dict.fromkeys(near, root[i]))
    problems: dict[int, _Problem] = {}
    for i in root:
        node = entries[i].node
        if isinstance(node, Unknown):
            problem = problems.setdefault(find(i), _Problem(entries[i].site, {}, {}))
            problem.operations[node.operation] = None
            if reason := node.reason or _HINTS.get(node.operation, ""):
                problem.reasons[reason] = None
    return list(problems.values())
