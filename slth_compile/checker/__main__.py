"""`python -m slth_compile.checker OUT/`: a verdict on a ticket directory where only NumPy is installed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from slth_compile.errors import SlthError, VerificationError

_BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 verified, 2 wrong usage, 3 damaged, missing, unknown or false, 130 interrupted."""
    parser = argparse.ArgumentParser(
        "python -m slth_compile.checker", description="Verify a ticket, trusting nothing in it."
    )
    parser.add_argument("directory", metavar="OUT", help="folder that holds manifest.json")
    parser.add_argument("--id", metavar="ID", help="ticket id that the manifest must have")
    parser.add_argument("--domain-data", metavar="FILE.npz", help="inputs of a domain that OUT does not hold")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="check everything, bounds by intervals only")
    options = parser.parse_args(arguments)
    if "numpy" not in sys.modules:  # the bounds run one thread a batch of samples; threads within products only cost
        os.environ.update({name: "1" for name in _BLAS_THREADS if name not in os.environ})
    from slth_compile.checker.check import verify

    try:
        verdict = verify(
            options.directory, expected_id=options.id, domain_data=options.domain_data, quick=options.quick
        )
    except VerificationError as error:
        message = str(error).removeprefix(f"{error.check}: ")
        if options.json:
            print(json.dumps({"verified": False, "check": error.check, "message": message}))
        print(f"verification failed: {error}", file=sys.stderr)
        return error.exit_code
    except SlthError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(json.dumps(verdict.to_json(), sort_keys=True) if options.json else verdict.to_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
