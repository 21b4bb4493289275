"""Saved results as tables and figures: ``python -m benchmarks.report benchmarks/results/*.json``.

    python -m benchmarks.report FILES                      # every table, between the marks that name it
    python -m benchmarks.report FILES --plot chart.png     # accuracy and speed over sizes; the roofline
    python -m benchmarks.report FILES --check README.md    # do its tables say what the files say?
    python -m benchmarks.report FILES --write README.md    # now they do

A table in a document stands between ``<!-- results:FILE/TABLE -->``, where FILE is a file of results
without its ``.json``, and ``<!-- end -->``. The files are written by
``pytest --benchmark-only --benchmark-results=DIR``, or by another program here whose ``report`` tells them.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple


class Published(NamedTuple):
    """A row of the paper's table: Pascal VOC 2007 test, on a GeForce GTX Titan X."""

    map: float  # per cent
    fps: float


#: by the side of YOLOv2's input in pixels (paper 2, table 3); quoted, never measured here
PAPER = {
    288: Published(69.0, 91),
    352: Published(73.7, 81),
    416: Published(76.8, 67),
    480: Published(77.8, 59),
    544: Published(78.6, 40),
}
#: parts of a contender's time that have rows of their own: all that is no network; the end of it
PARTS = ("outside the network", "decode and NMS")
#: pictures in, results out, of whole networks; has a table over sizes
WORK = "pictures to results"
MARKED = re.compile(r"(<!-- results:(\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


@dataclass
class Saved:
    """A file of results."""

    name: str
    environment: dict[str, Any]
    rows: list[Row]
    text: str = ""  # the report of the program that wrote it, where that is one of its own

    @classmethod
    def read(cls, path: Path) -> "Saved":
        """Read a file; one that is none ends the program with a line that says so."""
        try:
            content = json.loads(path.read_text())
            rows = [row for row in content.get("rows", ()) if "contender" in row]
            own = re.match(r"python -m (benchmarks\.\w+)", content.get("command", ""))
            text = import_module(own[1]).report(content) if own else ""
            return cls(path.stem, content["environment"], rows, text)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
            raise SystemExit(f"{path}: no file of results ({error!r})") from None

    def races(self) -> dict[tuple[str, str], list[Row]]:
        """Rows by work and case."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["work"], row["case"]), []).append(row)
        return found

    def sizes(self) -> list[list[Row]]:
        """Races of whole networks, smallest inputs first in each network."""
        races = [rows for (work, _), rows in self.races().items() if work == WORK]
        order = list(dict.fromkeys(rows[0]["network"] for rows in races))
        return sorted(races, key=lambda r: (order.index(r[0]["network"]), r[0]["batch"], r[0]["side"]))

    def tables(self) -> Iterator[tuple[str, list[str]]]:
        """Names and lines of all tables."""
        if self.text:
            yield f"{self.name}/report", ["```", *self.text.splitlines(), "```"]
        if self.sizes():
            yield f"{self.name}/sizes", [*sizes_table(self.sizes()), "", self.conditions()]
        for (work, case), rows in self.races().items():
            slug = re.sub(r"[^a-z0-9.]+", "-", f"{work} {case}".lower()).strip("-")
            yield f"{self.name}/{slug}", [*race_table(rows), "", self.conditions(rows)]

    def conditions(self, rows: Sequence[Row] = ()) -> str:
        """What the numbers were made with, in a line."""
        e, all_rows = self.environment, rows or [row for race in self.sizes() for row in race]
        about = [e["device"]]
        threads = {str(row["threads"]) for row in all_rows if "threads" in row} or {e["threads"]}
        about += [] if e.get("cuda") else [f"threads {' or '.join(sorted(threads))}"]
        about += [f"{key} {e[key]}" for key in ("driver", "torch", "triton") if e.get(key)]
        about += [f"commit {(e.get('commit') or e['sources'])[:10]}", e["date"][:10]]
        peaks = {"peak_flops_per_second": (1e12, "TFLOP/s"), "peak_bytes_per_second": (1e9, "GB/s")}
        best = {key: max((row.get(key, 0) for row in all_rows), default=0) for key in peaks}
        if all(best.values()):
            roof = " and ".join(f"{number(best[key] / unit)} {name}" for key, (unit, name) in peaks.items())
            about.append(f"roofline {roof}, a product of matrices and a copy in the same process")
        return f"{', '.join(about)}. Medians of interleaved samples."


def timed(rows: Iterable[Row], mode: str = "call") -> dict[str, Row]:
    """Rows that have numbers, by contender, with warm caches."""
    wanted = [r for r in rows if r["mode"] == mode and not r["note"]]
    return {r["contender"]: r for r in wanted if r["cache"] != "flushed"}


def number(value: float) -> str:
    """Three digits, and all in front of the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(lines: list[list[str]]) -> list[str]:
    """A table whose first column is text and all others numbers."""
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return [f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:])]


def race_table(rows: Sequence[Row]) -> list[str]:
    """A line for every contender of one race."""
    modes = {r["mode"] for r in rows if r["mode"] in ("call", "graph")}
    ours = rows[0].get("ours", "")
    head = ["", "median", "20 to 80 %", "n", "images/s", "of floor", f"/ {ours}" if ours else "/ ours"]
    lines = [head]
    for r in rows:
        name = r["contender"]
        if len(modes) > 1 or r["cache"] == "flushed":
            name += f" ({r['mode']} {r['cache']})".replace(" )", ")")
        if r["note"]:
            lines.append([f"{name}: {r['note']}", *[""] * (len(head) - 1)])
        elif r["mode"] == "quoted":
            lines.append([f"{name} (quoted)", "", "", "", number(r["images_per_second"]), "", ""])
        else:
            unit, scale = ("ms", 1e-3) if r["median"] >= 1000 else ("us", 1)
            low, middle, high = (f"{scale * r[key]:.3g}" for key in ("p20", "median", "p80"))
            line = [name, f"{middle} {unit}", f"{low} to {high}", str(r["samples"])]
            part = r["mode"] == "part"
            line += ["", ""] if part else [number(r["images_per_second"]), f"{r['per_cent_of_floor']:.0f} %"]
            lines.append([*line, share(r, rows) if part else ratio(r)])
    return markdown(lines)


def ratio(row: Row) -> str:
    """How many times longer than ours."""
    return f"{row['times_ours']:.2f}" if row.get("times_ours") else ""


def share(part: Row, rows: Sequence[Row]) -> str:
    """What a part is of its contender's time."""
    whole = timed(rows).get(part["contender"].rpartition(": ")[0])
    return f"{100 * part['median'] / whole['median']:.1f} % of it" if whole else ""


def sizes_table(races: Sequence[Sequence[Row]]) -> list[str]:
    """FPS of whole networks: a line for every size and batch, a column for what most of them have."""
    calls = [timed(rows) for rows in races]
    names = list(dict.fromkeys(name for call in calls for name in call))
    names = [n for n in names if 2 * sum(n in call for call in calls) >= len(calls)]
    parts = [p for p in PARTS if any(r["contender"].endswith(p) for rows in races for r in rows)]
    quoted = any(timed(rows, "quoted") for rows in races)
    head = ["network, input, batch", *(["paper, Titan X (quoted)"] if quoted else []), *names]
    head += ["ours / eager", "of roofline", *parts]
    lines = [head]
    for rows, call in zip(races, calls, strict=True):
        first = rows[0]
        line = [f"{first['network']} {first['side']} B{first['batch']}"]
        if quoted:
            line += [number(r["images_per_second"]) for r in timed(rows, "quoted").values()] or [""]
        line += [number(call[n]["images_per_second"]) if n in call else "" for n in names]
        ours = call.get(first["ours"])
        eager = next((r for n, r in call.items() if re.fullmatch(r"torch eager(, \w+)?", n)), None)
        line += [f"{eager['median'] / ours['median']:.2f}x" if ours and eager else ""]
        line += [f"{ours['per_cent_of_floor']:.0f} %" if ours else ""]
        for part in parts:
            row = timed(rows, "part").get(f"{first['ours']}: {part}")
            line.append(share(row, rows).removesuffix(" of it") if row else "")
        lines.append(line)
    return markdown(lines)


# ---------------------------------------------------------------- documents


def replaced(text: str, tables: dict[str, list[str]]) -> tuple[str, list[str], list[str]]:
    """A document with the tables of the files, the names of those that differed, and of those unknown."""
    differed, unknown = [], []

    def fill(match: re.Match[str]) -> str:
        begin, name, before, end = match.groups()
        if name not in tables:
            unknown.append(name)
            return match[0]
        now = "\n" + "".join(f"{line}\n" for line in tables[name]) + "\n"
        if now != before:
            differed.append(name)
        return begin + now + end

    return MARKED.sub(fill, text), differed, unknown


# ---------------------------------------------------------------- figures


def chart(files: Sequence[Saved], out: Path) -> None:
    """The paper's accuracy of each size against the FPS of each machine, and how near the roofline one is."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise SystemExit('no figure: matplotlib is missing; pip install -e ".[plot]"') from None
    files = [f for f in files if f.sizes()]
    if not files:
        raise SystemExit(f"no figure: no file has rows of {WORK}")
    figure = Figure(figsize=(6.5 * (1 + len(files)), 5), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(files), squeeze=False)[0]
    tradeoff(files, first)
    for file, axes in zip(files, others, strict=True):
        roofline(file, axes)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=120)


def tradeoff(files: Sequence[Saved], axes: Any) -> None:
    """Sizes of YOLOv2 as points."""
    curves: dict[str, dict[int, float]] = {"paper, Titan X (quoted)": {s: p.fps for s, p in PAPER.items()}}
    for file in files:
        for rows in file.sizes():
            first, call = rows[0], timed(rows)
            if first["network"] != "yolov2-voc" or first["side"] not in PAPER:
                continue
            for name in call:
                if name == first["ours"] or re.fullmatch(r"torch eager(, \w+)?", name):
                    key = f"{name}, batch {first['batch']}\n{short(file)}"
                    curves.setdefault(key, {})[first["side"]] = call[name]["images_per_second"]
    for label, points in curves.items():
        sides = sorted(points)
        style = "k--" if label.startswith("paper") else "-"
        axes.plot(
            [points[s] for s in sides], [PAPER[s].map for s in sides], style, marker="o", ms=4, label=label
        )
        for s in sides:
            axes.annotate(str(s), (points[s], PAPER[s].map), (4, -9), textcoords="offset points", size=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.6g}")
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:,.6g}" if f"{x:e}"[0] in "25" else "")
    axes.tick_params(axis="x", which="both", labelsize=7)
    axes.set(xlabel="pictures a second, from bytes to boxes", ylabel="the paper's mAP on VOC 2007 (%)")
    axes.set_title("YOLOv2 over sizes: measured speed, the paper's accuracy", size=10)
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def roofline(file: Saved, axes: Any) -> None:
    """Contenders of one race as bars."""
    races = file.sizes()
    usual = [rows for rows in races if (rows[0]["network"], rows[0]["side"]) == ("yolov2-voc", 416)]
    rows = (usual or races)[0]
    bars = sorted(timed(rows).values(), key=lambda r: r["per_cent_of_floor"])
    colours = ["C0" if r["contender"].startswith("predictor") else "0.7" for r in bars]
    values = [r["per_cent_of_floor"] for r in bars]
    axes.barh([r["contender"] for r in bars], values, color=colours)
    for place, r in enumerate(bars):
        text = f" {number(r['images_per_second'])}/s"
        axes.text(values[place], place, text, va="center", size=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlim(0, 1.12 * max(values))
    axes.set_xlabel("per cent of the roofline; pictures a second")
    axes.set_title(f"{rows[0]['case']}, {short(file)}", size=10)


def short(file: Saved) -> str:
    """The machine and the day."""
    return f"{file.environment['device']}, {file.environment['date'][:10]}"


def main(argv: list[str] | None = None) -> int:
    """Print tables, or do what a flag asks; 1 if a document does not say what the files say."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=main.__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--check", type=Path, metavar="DOCUMENT", help="compare its tables with the files")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="bring its tables up to date")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the chart")
    args = parser.parse_args(argv)
    files = [Saved.read(path) for path in args.files]
    tables = {name: lines for file in files for name, lines in file.tables()}
    if args.plot:
        chart(files, args.plot)
    bad = False
    for document in filter(None, (args.write, args.check)):
        before = document.read_text()
        if not MARKED.search(before):
            raise SystemExit(f"{document}: no table between marks; see benchmarks/report.py")
        text, differed, unknown = replaced(before, tables)
        if document == args.write and differed:
            document.write_text(text)
            print(f"{document}: written {', '.join(differed)}")
            differed = []
        for names, why in ((differed, "differs from the file"), (unknown, "is in none of the files")):
            for name in names:
                print(f"{document}: {name} {why}", file=sys.stderr)
        bad = bad or bool(differed or unknown)
    if not (args.plot or args.write or args.check):
        for name, lines in tables.items():
            print(f"<!-- results:{name} -->", "", *lines, "", "<!-- end -->", "", sep="\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
