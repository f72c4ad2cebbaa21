"""Asks PyPI's advisory service about every pin of requirements.lock (pip-audit): `make audit`.

Exit status 1: a finding that is not explained below. Exit status 75: the service has not answered for some packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
UNANSWERED = 75  # EX_TEMPFAIL of sysexits.h

EXPLAINED: dict[str, str] = {}
"""Findings that stay, the advisory's id and why: what it takes to be hit, and why that can't happen here."""


def verdict(dependencies: list[dict]) -> tuple[list[str], int]:
    """What to print, and the exit status.

    Args:
        dependencies: of pip-audit's JSON report.
    """
    lines, status = [], 0
    for package in dependencies:
        for finding in package.get("vulns", []):
            names = [finding["id"], *finding.get("aliases", [])]
            why = next((EXPLAINED[name] for name in names if name in EXPLAINED), None)
            about = f"{package['name']} {package['version']}: {', '.join(names)}"
            lines.append(f"explained  {about}: {why}" if why else f"FINDING    {about}: {finding['description'][:300]}")
            status = status if why else 1
    unknown = [package["name"] for package in dependencies if "skip_reason" in package]
    if unknown:
        lines.append(f"NOT AUDITED: {len(unknown)} of {len(dependencies)} packages, for which PyPI gave no answer.")
        status = status or UNANSWERED
    lines.append(f"{len(dependencies) - len(unknown)} of {len(dependencies)} packages audited")
    return lines, status


def main() -> int:
    """Runs pip-audit and prints what it found."""
    words = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip", "--format", "json"]
    done = subprocess.run([*words, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]
        print(f"NOT AUDITED: the advisory service can't be asked ({last}).")
        return UNANSWERED
    lines, status = verdict(dependencies)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
