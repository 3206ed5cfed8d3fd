"""Instructions per I/O, now and as last recorded: count.py [--functions SHAPE] [--record LABEL].

--functions also lists what each function takes of a shape, such as null/read-4k/1; --record appends
what was measured to history.json, which the tests compare with from then on.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import tests_performance as performance  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--functions", metavar="SHAPE", action="append", default=[])
    parser.add_argument("--record", metavar="LABEL", help="what has changed, in a few words")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = performance.measure(HERE.parents[1], Path(folder))
    history = performance.History(HERE / "history.json")
    lines = list(performance.table(measured, history.last(measured.compiler)))
    for shape in arguments.functions:
        if shape not in measured.figures:
            parser.error(f"there is no shape {shape}: take one of the table")
        lines += ["", f"{shape}, each function without what it calls"]
        functions = measured.figures[shape].functions
        lines += [f"  {name:32} {own:8.1f}" for name, own in functions.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    if arguments.record:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        history.append(measured, today, arguments.record)


if __name__ == "__main__":
    main()
