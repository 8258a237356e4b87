"""Run the benchmark, and write one JSON and one readable table."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.benchmark import device, speed

_REFERENCE = "passthrough_ll"


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="counted runs after a warm-up (5)")
    parser.add_argument("--quick", action="store_true", help="a quarter of the data")
    parser.add_argument("--only", choices=["speed", "device", "memory"])
    parser.add_argument("--fs", default="ext4,xfs,btrfs", help="file systems on the loop device")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path, default=Path("bench.json"))
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"schema": 1, "machine": platform.platform(), "runs": arguments.runs}
    text: list[str] = []
    try:
        if arguments.only in {None, "speed"}:
            result["speed"] = speed.measure(arguments.runs, arguments.quick)
            text += speed_table(result["speed"])
        if arguments.only in {None, "device"}:
            kinds = tuple(arguments.fs.split(","))
            result["device"] = device.measure(kinds, arguments.folder)
            text += device_table(result["device"])
        if arguments.only in {None, "memory"}:
            result["memory"] = device.memory(arguments.folder)
            text += ["", "| memory | |", "|---|---|"]
            text += [f"| {name} | {value:,.2f} |" for name, value in result["memory"].items()]
    except KeyboardInterrupt:
        print("tools/bench: interrupted; everything was removed again", file=sys.stderr)
        return 130
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n".join(text))
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(text) + "\n")
    return 0


def speed_table(rows: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    names = list(next(iter(rows.values())))
    lines = [
        "| work | " + " | ".join(names) + f" | mirrorfs / {_REFERENCE} |",
        "|---" * (len(names) + 2) + "|",
    ]
    for label, row in rows.items():
        cells = [
            f"{row[name]['median']:,.2f}"
            if row[name]["median"] < 20
            else f"{row[name]['median']:,.0f} ({row[name]['min']:,.0f}-{row[name]['max']:,.0f})"
            for name in names
        ]
        ratio = row["mirrorfs"]["median"] / max(row[_REFERENCE]["median"], 1e-9)
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    return lines


def device_table(found: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "| file system | copy | written, bytes | device, bytes | device / changed | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for kind, rows in found.items():
        changed = rows["changed_bytes"]
        for label, row in rows.items():
            if label == "changed_bytes":
                continue
            ratio = f"{row['device_bytes'] / changed:.3f}" if label.startswith("night") else ""
            lines.append(
                f"| {kind} | {label} | {row['written_bytes']:,} | {row['device_bytes']:,} "
                f"| {ratio} | {row['seconds']:.1f} |"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
