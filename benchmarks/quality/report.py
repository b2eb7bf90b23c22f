"""The results of a set as a table for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tabulate import tabulate

Record = Mapping[str, Any]

WHO = ("model", "graph", "part")
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "skab": {
        "auc": "ROC AUC",
        "average_precision": "AP",
        "vus_pr": "VUS-PR",
        "f1": "F1",
        "f1_random": "random",
        "far": "FAR",
        "mar": "MAR",
        "changepoint": "change",
        "changepoint_centred": "centred",
        "changepoint_random": "random",
        "auc_whole": "AUC whole",
        "f1_whole": "F1 whole",
        "far_whole": "FAR whole",
        "free_far": "FAR free",
        "free_far_hour": "after 1 h",
    },
    "nab": {
        "standard": "standard",
        "reward_low_fp": "low FP",
        "reward_low_fn": "low FN",
        "standard_windows": "windows",
        "best_standard": "best",
        "best_standard_windows": "best windows",
    },
    "femto": {
        "auc": "ROC AUC",
        "auc_worst": "worst",
        "average_precision": "AP",
        "false_alerts": "false alerts",
        "far": "FAR",
        "far_windows": "FAR windows",
        "lead_h": "lead h",
        "life_h": "life h",
    },
    "smap_msl": {"files": "channels", "auc": "ROC AUC", "average_precision": "AP", "vus_pr": "VUS-PR"},
}


def key(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What tells a row from the others of its set."""
    return tuple(str(row.get(name, "")) for name in WHO)


def text(record: Record) -> str:
    """A line a model, graph and part of the files; then what int8 costs, and how long it took."""
    name = record["benchmark"].removeprefix("quality_")
    columns = COLUMNS[name]
    rows = [(*key(row), *(row.get(column) for column in columns)) for row in record["rows"]]
    lines = [
        f"{name}: {len(record['files'])} files, seeds {', '.join(map(str, record['seeds']))}",
        tabulate(rows, headers=(*WHO, *columns.values()), floatfmt=".3f", missingval="-", tablefmt="simple"),
    ]
    for family, lost in record.get("int8_auc_loss", {}).items():
        if lost["files"]:
            lines.append(
                f"int8 loses {lost['mean']:+.4f} of ROC AUC, {lost['worst']:+.4f} at worst ({family}, {lost['files']} files)"
            )
    lines.append(f"took {record['took_s']:.0f} s")
    return "\n".join(lines)
