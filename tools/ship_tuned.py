"""Make a table of choices that comes with the package, from a file of `bitnet-jit autotune --export FILE`.

    python tools/ship_tuned.py export.json nvidia-h200

The table is named as bitnet_jit/runtime/shipped.py looks for it; entries of other problems that it has already stay.
"""

import json
import sys
from pathlib import Path

from bitnet_jit.runtime.entries import FORMAT, canonical
from bitnet_jit.runtime.shipped import FOLDER


def ship(export: Path, name: str) -> int:
    """Write the table and return the number of its entries."""
    file = FOLDER / f"{name}.json"
    known = json.loads(file.read_text())["entries"] if file.exists() else []
    entries = {
        canonical(entry["key"]["problem"]): entry for entry in (*known, *json.loads(export.read_text())["entries"])
    }
    lines = ",\n".join(canonical(entries[key]) for key in sorted(entries))
    FOLDER.mkdir(exist_ok=True)
    file.write_text(f'{{"format": {FORMAT}, "entries": [\n{lines}\n]}}\n')
    return len(entries)


if __name__ == "__main__":
    sys.stdout.write(f"{ship(Path(sys.argv[1]), sys.argv[2])} choices\n")
