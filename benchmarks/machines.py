"""docs/benchmarks.md and .json: a section for each machine on which `make bench` was run, the newest first."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import learning

Measured = Mapping[str, Any]
"""Of one machine: date, clips, machine, versions, took, results (rows of `timing.row`), and bf16 where it has it."""

FACTS = ("date", "clips", "versions", "took")


def renew(folder: Path, measured: Measured) -> str:
    """Puts what was measured in the place of the same machine's earlier figures, writes both files, gives the page."""
    path = folder / "benchmarks.json"
    earlier: list[Measured] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    machines = [measured, *(one for one in earlier if one["machine"] != measured["machine"])]
    path.write_text(json.dumps(machines, indent=1) + "\n", encoding="utf-8")
    head = [
        "# Benchmarks",
        "",
        "Written by `make bench`: medians of five repeats in one run, with the range; a section for each machine that",
        "it was run on. The ratio is times as fast, unless a line says otherwise; a target in bold is missed.",
    ]
    page = "\n".join([*head, *(line for one in machines for line in section(one)), ""])
    (folder / "benchmarks.md").write_text(page, encoding="utf-8")
    return page


def section(measured: Measured) -> Iterator[str]:
    """The lines on one machine."""
    yield from ("", f"## {measured['machine']}", "")
    yield from (f"- {name}: {measured[name]}" for name in FACTS if name in measured)
    yield from ("", "| what | against | ratio | range | target | also |", "|---|---|---|---|---|---|")
    for one in measured["results"]:
        also = ", ".join(f"{name} {value:.2g}" for name, value in one["also"].items())
        target = one["target"] if one["met"] else f"**{one['target'] or 'missed'}**"
        spread = f"{one['lowest']:.2f}-{one['highest']:.2f}"
        yield f"| {one['what']} | {one['against']} | {one['ratio']:.2f} | {spread} | {target or '-'} | {also or '-'} |"
    bf16 = measured.get("bf16")
    if bf16:
        scores = {name: ", ".join(f"{value:.3f}" for value in bf16[name]) for name in ("float32", "bf16")}
        yield from (
            "",
            f"bf16 against float32: CNN10, width 0.25, {bf16['epochs']} epochs on the sample corpus (synthetic), "
            f"batch 8, learning rate 0.01, seeds {', '.join(map(str, learning.SEEDS))}; validation CCC of the best "
            f"epoch over {bf16['validation clips']} clips:",
            "",
            f"- float32: {scores['float32']}",
            f"- bf16: {scores['bf16']}",
            f"- mean difference {bf16['difference']:+.4f}, 95% interval by speaker ({bf16['speakers']} speakers) "
            f"[{bf16['lo_by_speaker']:.4f}, {bf16['hi_by_speaker']:.4f}]",
        )
