"""One small ticket for all tests of a run, and the command line inside this process."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
QUICKLY = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
"""Half of the seconds that XLA takes to compile, at the same level of optimisation: products are merged into sums and
loops vectorised as ever, and what programs return is the same to the last bit but for functions like `cbrt`."""


def pytest_configure(config: pytest.Config) -> None:
    """What XLA compiled serves all workers of a run, and the processes that tests start; see `counts`.

    With `-m ''` XLA compiles as it does for everybody.
    """
    # Nothing is to fail because the machine is slow.
    slow = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=slow)
    hypothesis.settings.load_profile("patient")
    if "not slow" not in config.option.markexpr:
        os.environ["SLTH_EXAMPLES"] = "all"
    elif not hasattr(config, "workerinput"):
        os.environ["XLA_FLAGS"] = f"{QUICKLY} {os.environ.get('XLA_FLAGS', '')}"
        # Where in Python every operation of a program comes from.
        os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
    if CACHE not in os.environ and not hasattr(config, "workerinput"):
        os.environ[CACHE] = tempfile.mkdtemp(prefix="xla-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop(CACHE), ignore_errors=True))


@pytest.fixture(scope="session", autouse=True)
def initial_weights() -> Iterator[None]:
    """Weights that flax models are born with come from NumPy: XLA takes half a second for each shape of them."""
    import jax
    import jax._src.random as drawn
    import numpy as np

    original = getattr(drawn, "truncated_normal", None)
    if original is None:  # no name of JAX's interface; without it tests are slower, and say the same
        yield
        return

    def truncated_normal(
        key: jax.Array, lower: float, upper: float, shape: tuple[int, ...] = (), dtype=float, **kwargs
    ):
        try:
            is_typed = jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
            seed = np.asarray(jax.random.key_data(key) if is_typed else key)
        except jax.errors.TracerArrayConversionError:  # part of a program all the same
            return original(key, lower, upper, shape, dtype, **kwargs)
        values = np.random.default_rng(seed.astype(np.uint64)).normal(size=shape)
        return jax.device_put(np.clip(values, lower, upper).astype(dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawn, "truncated_normal", truncated_normal)
        yield


@dataclasses.dataclass(frozen=True)
class Shared:
    """What every worker of a test run uses: inputs, and the ticket made of them."""

    folder: Path

    @property
    def ticket(self) -> Path:
        return self.folder / "ticket"

    @property
    def cache(self) -> Path:
        return Path(os.environ[CACHE])

    @property
    def arguments(self) -> list[str]:
        from helpers import Inputs

        return Inputs(self.folder / "inputs").arguments

    @property
    def checkpoint(self) -> str:
        return self.arguments[0]

    @property
    def points(self) -> Path:
        return self.folder / "inputs" / "points.npz"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """The tiny ticket, compiled by the command line in a process of its own, once a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    found = Shared(folder)
    with _alone(folder / "lock"):
        if not found.ticket.exists():
            from helpers import Inputs, start, timed

            inputs = Inputs(folder / "inputs").write()
            timed(start("compile", *inputs.arguments, str(found.ticket), cache=found.cache))
    return found


@dataclasses.dataclass(frozen=True)
class Again:
    """A second compile of the same, whose programs XLA had compiled before."""

    ticket: Path
    seconds: float


@pytest.fixture(scope="session")
def again(shared: Shared) -> Again:
    """The same ticket from another process, once a run."""
    ticket, seconds = shared.folder / "again", shared.folder / "seconds"
    with _alone(shared.folder / "again.lock"):
        if not seconds.is_file():
            from helpers import start, timed

            taken, *_ = timed(start("compile", *shared.arguments, str(ticket), cache=shared.cache))
            seconds.write_text(str(taken))
    return Again(ticket, float(seconds.read_text()))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one process at a time comes past."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error; where it lists several things, an indented line each."""
        first, *rest = self.err.splitlines()
        assert first.startswith("slth-compile: "), self.err
        assert all(line.startswith("  ") for line in rest), self.err
        assert len(rest) != 1, self.err
        assert "Traceback" not in self.err
        return "\n".join([first.removeprefix("slth-compile: "), *rest])


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command line: arguments in, exit code, stdout and stderr out."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(*arguments: object) -> Ended:
        from slth_compile.cli import main

        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["slth-compile", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 0 if done.code is None else 1
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
