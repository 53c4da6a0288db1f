"""One ONNX node as the rules for operators see it: its attributes, its operands, and what it may be refused for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.constants import Constant, from_array
from slth_compile.frontends.draft import Activation, Draft, Value

Shape = tuple[int, ...]


class Refused(Exception):
    """An operation no target node stands for; the text says why, and what is expected."""


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One node of the file.

    Attributes:
        kind: Its operator.
        name: Its name, or that of its first result.
        opset: Version of the operators.
        draft: Where entries go.
        operands: Its inputs; None for one that is left out.
        names: Names of the inputs.
        attributes: Attribute values by name: numbers, strings, tuples of these, arrays.
        used: For each result, whether anything reads it.
    """

    kind: str
    name: str
    opset: int
    draft: Draft
    operands: tuple[Value | None, ...]
    names: tuple[str, ...]
    attributes: dict[str, Any]
    used: tuple[bool, ...]

    @property
    def activation(self) -> Activation:
        """The first operand, which depends on the input."""
        return self.activation_at(0)

    def operand(self, position: int) -> Value | None:
        """An operand, None where it is left out."""
        return self.operands[position] if position < len(self.operands) else None

    def activation_at(self, position: int) -> Activation:
        """An operand that must depend on the input."""
        x = self.operand(position)
        if isinstance(x, Activation):
            return x
        raise Refused(f"operand {position + 1} is {'left out' if x is None else 'a constant'}; expected an activation")

    def constant_at(self, position: int, what: str) -> Constant:
        """An operand that must not depend on the input."""
        x = self.operand(position)
        if isinstance(x, Constant):
            return x
        raise Refused(f"{what} {'is missing' if x is None else 'depends on the input'}; expected a constant")

    def optional_at(self, position: int, what: str) -> np.ndarray | None:
        """The value of a constant operand, None where it is left out."""
        return None if self.operand(position) is None else self.constant_at(position, what).value

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return self._attribute(name, int, default)

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is 0 or 1."""
        found = self.integer(name, int(default))
        if found not in (0, 1):
            raise InputError(f"{self}: attribute {name}={found}; expected 0 or 1")
        return bool(found)

    def number(self, name: str, default: float) -> float:
        """A number attribute."""
        return float(self._attribute(name, (int, float), default))

    def text(self, name: str, default: str) -> str:
        """A string attribute."""
        return self._attribute(name, str, default)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that lists integers, None where it is left out."""
        found = self._attribute(name, tuple, None)
        if found is not None and not all(isinstance(value, int) for value in found):
            raise InputError(f"{self}: attribute {name}={found}; expected integers")
        return found

    def axes(self, rank: int, position: int | None = None) -> tuple[int, ...] | None:
        """The axes of an attribute, or of an operand in newer operators, counted from the front."""
        found = self.integers("axes")
        if found is None and position is not None and self.operand(position) is not None:
            given = self.constant_at(position, "the list of axes").value
            found = tuple(int(axis) for axis in given.reshape(-1))
        if found is None:
            return None
        axes = tuple(self.axis(axis, rank) for axis in found)
        if len(set(axes)) != len(axes):
            raise InputError(f"{self}: axes {found} name an axis twice")
        return axes

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < rank:
            raise InputError(f"{self}: axis {axis} of an array with {rank} axes")
        return axis % rank

    def refuse_attribute(self, name: str, found: Any, expected: str) -> None:
        """Refuses an attribute's value."""
        raise Refused(f"{name}={found}; expected {expected}")

    def __str__(self) -> str:
        """Operator and name, as messages show them."""
        return f"{self.kind} '{self.name}'"

    def _attribute(self, name: str, kind: Any, default: Any) -> Any:
        found = self.attributes.get(name, default)
        if found is not default and not isinstance(found, kind):
            raise InputError(f"{self}: attribute {name} is of type {type(found).__name__}")
        return found


def constant(array: np.ndarray, leaves: frozenset[str]) -> Constant:
    """A constant of the file.

    An array of floats is a parameter, whether it is stored as an initialiser or in a Constant node: files do not tell
    the two apart. A single number is a setting of the network, such as a slope or the end of a clip, and so are zeros.
    """
    array = np.asarray(array)
    trained = array.size > 1 and (array.dtype.kind == "f" or array.dtype.name == "bfloat16") and bool(np.any(array))
    return from_array(array, leaves=leaves if trained else frozenset())
