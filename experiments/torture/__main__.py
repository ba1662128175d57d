"""Tries what must never happen, many times over, and prints how often each was tried and how often it failed.

    python -m experiments.torture                            # every part, in about half an hour on two cores
    python -m experiments.torture damage pictures --cases 200

Files that the program wrote are cut and get bits flipped, trainings are killed and resumed, and strangers hand in
expressions, pickles that call something, hostile names and odd pictures. A trial holds where the program does what it
was asked, or refuses in one line with exit status 2, and never reads something else than what was written. The quick
ones of these laws are tests; this command has the numbers. It ends with 1 where a trial failed, and lists them.
"""

import argparse
import tempfile
import time
from pathlib import Path

from experiments.torture import damage, input, interruption
from recon.console import aligned, duration

PARTS = {
    "expressions": input.expressions,
    "pickles": input.pickles,
    "pictures": input.pictures,
    "damage": damage.trials,
    "names": input.names,
    "kills": interruption.trials,
}
SHOWN = 20  # faults of a part


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--cases", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="list also what held")
    options = parser.parse_args()
    lines, failed = [["part", "tried", "failed", "time"]], 0
    for name in options.parts or PARTS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="torture-") as place:
            trials, faults = 0, 0
            for trial in PARTS[name](Path(place), options.cases, options.seed):
                trials, faults = trials + 1, faults + (trial.fault is not None)
                if options.verbose or (trial.fault is not None and faults <= SHOWN):
                    print(f"{name}: {trial.case}: {trial.fault or 'held'}", flush=True)
        lines.append([name, str(trials), str(faults), duration(time.monotonic() - began)])
        failed += faults
        print(" ".join(lines[-1]), flush=True)
    print("\n" + aligned(lines))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
