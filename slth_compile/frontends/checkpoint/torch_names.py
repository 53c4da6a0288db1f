"""Which module of a PyTorch checkpoint is which module of the model.

A module is told by its name, its arrays and their shapes in PyTorch's layout (its *form*; taps of size one and the
dimensions of single numbers are left out of it).

1. Names: `layer1.0.conv1`, `layer1/0/conv1` and `layer1_0_conv1` are one name, upper and lower case the same.
2. The rest by form, where only one module on each side has it.
3. The rest by order: the k-th of the checkpoint is the k-th that the model applies, where both list the same forms in
   the same order for that kind of module. A file sorted by name (`safetensors` writes such) has no order of its own;
   there, numbers in names that are otherwise the same stand for it (`features.2` before `features.10`).

Everything else is ambiguous, and refused with both sides listed.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from slth_compile.errors import InputError
from slth_compile.frontends.checkpoint.flax_names import AT_MOST, misfit
from slth_compile.frontends.checkpoint.read import Arrays

# what training scripts, DistributedDataParallel and torch.compile put around or before the names
_AROUND = ("state_dict", "model_state_dict", "model", "module", "_orig_mod", "net", "network", "params")
_COUNTER = "num_batches_tracked"
_MARKS = ("weight", "running_mean", "running_var", _COUNTER)

Form = tuple[tuple[str, tuple[int, ...]], ...]
Modules = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Modules of the model by those of the checkpoint.

    Attributes:
        modules: The checkpoint's modules, their arrays by name, read as `sources` names them.
        sources: The checkpoint's module for each of the model's.
        by_order: Those of the model that were not found by name.
    """

    modules: Modules
    sources: dict[str, str]
    by_order: tuple[str, ...]


def looks_like_torch(arrays: Arrays) -> bool:
    """Whether names are PyTorch's: `weight` or running statistics, and no `kernel`."""
    leaves = {name.rpartition("/")[2] for name in arrays}
    return not leaves.isdisjoint(_MARKS) and "kernel" not in leaves


def pair(forms: Mapping[str, Form], arrays: Arrays, path: Any) -> Pairing:
    """The checkpoint's module for each module of the model.

    Args:
        forms: The form of each module of the model by its path, in the order in which the model applies them.
        arrays: The checkpoint, in the order of its file.
        path: For messages.

    Raises:
        InputError: They do not fit, or cannot be told apart.
    """
    failures: list[tuple[int, InputError]] = []
    for reading in _readings(arrays):
        modules = _modules(reading)
        try:
            return _paired(forms, modules, path)
        except InputError as error:
            common = len({_key(name) for name in modules} & {_key(name) for name in forms})
            failures.append((common, error))
    raise max(failures, key=lambda failure: failure[0])[1]


def form(leaves: Mapping[str, Sequence[int]]) -> Form:
    """The form of a module with arrays of these shapes in PyTorch's layout."""
    return tuple(sorted((leaf, _plain(tuple(shape))) for leaf, shape in leaves.items()))


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape or (1,)


def _readings(arrays: Arrays) -> list[Arrays]:
    """The checkpoint with fewer and fewer wrappers around the names."""
    readings, inner = [arrays], arrays
    while True:
        for outer in _AROUND:
            found = {name.removeprefix(f"{outer}/"): a for name, a in inner.items() if name.startswith(f"{outer}/")}
            if any(name.rpartition("/")[2] == "weight" for name in found):
                break
        else:
            return readings[::-1]
        readings.append(found)
        inner = found


def _modules(arrays: Arrays) -> Modules:
    modules: Modules = {}
    for name, array in arrays.items():
        module, _, leaf = name.rpartition("/")
        if leaf != _COUNTER and jnp.issubdtype(array.dtype, jnp.floating):
            modules.setdefault(module, {})[leaf] = array
    return modules


def _paired(forms: Mapping[str, Form], modules: Modules, path: Any) -> Pairing:
    theirs = {name: form({leaf: np.shape(a) for leaf, a in leaves.items()}) for name, leaves in modules.items()}
    sources = _by_name(forms, theirs)
    wrong = [
        f"'{name}' holds {_words(theirs[name])}, the model's '{mine}' expects {_words(forms[mine])}"
        for mine, name in sources.items()
        if theirs[name] != forms[mine]
    ]
    if wrong:
        raise misfit(path, wrong)
    named = frozenset(sources)
    left = {mine: f for mine, f in forms.items() if mine not in sources}
    over = _in_order({name: f for name, f in theirs.items() if name not in sources.values()})
    lines = [
        line
        for f in dict.fromkeys([*left.values(), *over.values()])
        if (line := _uneven(f, _with(left, f), _with(over, f)))
    ]
    if lines:
        raise misfit(path, lines)
    places = {name: i for i, name in enumerate(_in_order(theirs))}
    by_kind = {_kind(f): (_of_kind(left, f), _of_kind(over, f)) for f in left.values()}
    for f in dict.fromkeys(left.values()):
        mine, others = _with(left, f), _with(over, f)
        sources.update(zip(mine, others, strict=True))
        same_lists = [*by_kind[_kind(f)][0].values()] == [*by_kind[_kind(f)][1].values()]
        order = [places[sources[m]] for m in forms if m in sources and forms[m] == f]
        told = len(mine) == 1 and not any(forms[m] == f for m in named)
        if not told and not (same_lists and _ordered(theirs, others) and order == sorted(order)):
            raise InputError(
                f"checkpoint '{path}' has PyTorch names that cannot be told apart by shape or order:\n"
                f"  checkpoint: {_listed(_with(theirs, f))}\n  model: {_listed(_with(forms, f))}\n"
                f"  name the model's modules as the checkpoint does, '{others[0].replace('/', '_')}' for "
                f"'{others[0].replace('/', '.')}'"
            )
    return Pairing(modules, sources, tuple(m for m in forms if m not in named))


def _by_name(forms: Mapping[str, Form], theirs: Mapping[str, Form]) -> dict[str, str]:
    keys: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    own: defaultdict[tuple[str, ...], int] = defaultdict(int)
    for name in theirs:
        keys[_key(name)].append(name)
    for name in forms:
        own[_key(name)] += 1
    return {m: keys[_key(m)][0] for m in forms if len(keys[_key(m)]) == 1 == own[_key(m)]}


def _key(name: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[/._]", name.lower()) if part)


def _in_order(modules: Mapping[str, Form]) -> dict[str, Form]:
    """In the order of the file, or of the numbers in their names where the file is sorted by name."""
    return {name: modules[name] for name in sorted(modules, key=_natural)} if _is_sorted(modules) else dict(modules)


def _is_sorted(modules: Mapping[str, Form]) -> bool:
    return list(modules) == sorted(modules)


def _ordered(modules: Mapping[str, Form], names: Sequence[str]) -> bool:
    """Whether the order of these says something."""
    return not _is_sorted(modules) or len({re.sub(r"\d+", "#", name) for name in names}) == 1


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _kind(f: Form) -> tuple[Any, ...]:
    return tuple((leaf, min(len(shape), 2)) for leaf, shape in f)


def _of_kind(forms: Mapping[str, Form], f: Form) -> dict[str, Form]:
    return {name: g for name, g in forms.items() if _kind(g) == _kind(f)}


def _with(forms: Mapping[str, Form], f: Form) -> list[str]:
    return [name for name, own in forms.items() if own == f]


def _uneven(f: Form, mine: Sequence[str], others: Sequence[str]) -> str:
    if len(mine) == len(others):
        return ""
    return f"{_words(f)}: checkpoint has {_listed(others)}; the model {_listed(mine)}"


def _words(f: Form) -> str:
    return ", ".join(f"{leaf} {shape}" for leaf, shape in f)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - AT_MOST} more" if len(names) > AT_MOST else ""
    return (", ".join(f"'{name}'" for name in names[:AT_MOST]) or "none") + more
