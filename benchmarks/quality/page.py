"""The quality results as they stand in docs/quality.md, between its markers: targets with their intervals, then file by file.
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.quality import told

Record = Mapping[str, Any]

BEGIN, END = "<!-- `make quality` writes from here -->", "<!-- quality: to here -->"
SKAB, NAB, FEMTO, SMAP = "quality_skab", "quality_nab", "quality_femto", "quality_smap_msl"


def section(results: Mapping[str, Record]) -> str:
    """Markdown, of the sets that ``results`` has."""
    parts = [
        _table(
            ("", "graph", "reached (even / odd files)", "over seeds", "over files", "wanted"),
            _targets(results),
        )
    ]
    if SKAB in results:
        record = results[SKAB]
        parts += [
            "SKAB, file by file: Mahalanobis, float32. False alarms and misses: shares of the healthy and of the faulty rows, by "
            f"alerts at p ≤ {record['p_alarm']:g} and by single windows. Choices were made on the files of even index.",
            _table(
                ("file", "index", "ROC AUC", "false alarms", "missed", "windows: false", "missed"),
                _skab(record),
            ),
        ]
    if NAB in results:
        parts += [
            "NAB, file by file: Mahalanobis, float32, at the level that the other half's standard score asks for.",
            _table(("file", "index", "labelled windows", "hit", "false alerts"), _nab(results[NAB])),
        ]
    if FEMTO in results:
        parts += [
            "FEMTO, ROC AUC by bearing, float32.",
            _table(("bearing", *_names(results[FEMTO])), _femto(results[FEMTO])),
        ]
    return "\n\n".join(parts) + "\n"


def _targets(results: Mapping[str, Record]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    if SKAB in results:
        record = results[SKAB]
        for what, name, wanted in (
            ("ROC AUC", "auc", f"≥ {told.SKAB_AUC:g}"),
            ("ROC AUC, rows trained on included", "auc_whole", ""),
            ("F1", "f1", f"≥ {told.SKAB_F1:g}"),
            ("false alarms", "far", f"≤ {told.SKAB_FAR:g}"),
            ("false alarms, rows trained on included", "far_whole", ""),
            ("F1, rows trained on included", "f1_whole", ""),
            ("changepoints", "changepoint", f"≥ {told.SKAB_CHANGES:g}"),
            ("alerted time without faults, model of the first hour", "free_far_hour", f"≤ {told.FREE_FAR:g}"),
            ("alerted time without faults, model of 400 rows", "free_far", f"≤ {told.FREE_FAR:g}"),
            (
                "alerted time without faults, model of the first hour, one alert a week",
                "free_far_weekly_hour",
                "",
            ),
        ):
            found += _lines("SKAB " + what, record, name, wanted)
    if SMAP in results:
        found += _lines("SMAP and MSL VUS-PR", results[SMAP], "vus_pr", "")
        found += _lines("SMAP and MSL ROC AUC", results[SMAP], "auc", "")
    if NAB in results:
        for what, name, wanted in (
            ("standard", "standard", f"≥ {told.NAB_STANDARD:g}"),
            ("reward low FP", "reward_low_fp", ""),
            ("reward low FN", "reward_low_fn", ""),
        ):
            found += _lines("NAB " + what, results[NAB], name, wanted, "{:.1f}")
    if FEMTO in results:
        found += _lines("FEMTO ROC AUC", results[FEMTO], "auc", f"≥ {told.FEMTO_AUC:g}")
        found += _lines("FEMTO worst ROC AUC", results[FEMTO], "auc_worst", f"≥ {told.FEMTO_WORST:g}")
        found += _lines("FEMTO false alarms in the healthy half", results[FEMTO], "far", "")
        found += _lines("FEMTO hours of warning", results[FEMTO], "lead_h", "")
    for name, what in ((SKAB, "SKAB"), (FEMTO, "FEMTO"), (SMAP, "SMAP and MSL")):
        for family, lost in results[name]["int8_auc_loss"].items() if name in results else ():
            if lost["files"]:
                reached = f"{lost['mean']:+.4f}, {lost['worst']:+.4f}"
                of = f"{what} ROC AUC that int8 loses, mean and worst of {lost['files']} files, {told.NAMES[family]}"
                found.append((of, "int8", reached, "", "", f"≤ {told.INT8_MEAN:g}, ≤ {told.INT8_WORST:g}"))
    return found


def _lines(what: str, record: Record, name: str, wanted: str, form: str = "{:.3f}") -> list[tuple[str, ...]]:
    """One a family and graph, over all files; those of even and of odd index apart where there are any."""
    found = []
    parts = {(row["model"], row["graph"], row["part"]): row.get(name) for row in record["rows"]}
    for row in record["rows"]:
        if row["part"] != "all" or row["graph"] not in ("float32", "int8") or row.get(name) is None:
            continue
        halves = [parts.get((row["model"], row["graph"], part)) for part in ("even", "odd")]
        spans = [
            f"{form.format(span[0])} to {form.format(span[1])}" if span else ""
            for span in (row.get("over_seeds", {}).get(name), row.get("over_files", {}).get(name))
        ]
        family = f"{what}, {told.NAMES[row['model']]}"
        reached = form.format(row[name])
        if None not in halves and len({*halves, row[name]}) > 1:
            reached += f" ({' / '.join(form.format(half) for half in halves)})"
        found.append((family, row["graph"], reached, *spans, wanted))
    return found


def _skab(r: Record) -> Iterable[tuple[str, ...]]:
    of_file = r["alarms_by_file"]["mahalanobis"]["float32"]
    for i, name in enumerate(r["files"]):
        found = of_file[name]
        figures = [
            "" if (x := found.get(key)) is None else f"{x:.2f}"
            for key in ("auc", "far", "mar", "far_windows", "mar_windows")
        ]
        yield (name, _parity(i), *figures)


def _nab(r: Record) -> Iterable[tuple[str, ...]]:
    of_file = r["alerts_by_file"]["mahalanobis"]
    for i, name in enumerate(r["files"]):
        found = of_file[name]
        yield (name, _parity(i), *(str(found[key]) for key in ("windows", "hit", "false")))


def _femto(r: Record) -> Iterable[tuple[str, ...]]:
    by_family = r["auc_by_file"]
    for name in (*r["files"], *r["of_features"]):
        of_all = [graphs["float32"].get(name) for graphs in by_family.values()]
        yield (name, *("" if x is None else f"{x:.3f}" for x in of_all))


def _names(r: Record) -> list[str]:
    return [told.NAMES[family] for family in r["auc_by_file"]]


def _parity(i: int) -> str:
    return "odd" if i % 2 else "even"


def _table(headers: Sequence[str], rows: Iterable[tuple[str, ...]]) -> str:
    return tabulate(list(rows), headers=headers, tablefmt="github", disable_numparse=True)
