"""Prints the files that match a pattern below a folder, one a line, sorted; for meson.build."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    top, pattern = Path(sys.argv[1]), sys.argv[2]
    print("\n".join(str(path.relative_to(top)) for path in sorted(top.glob(pattern))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
