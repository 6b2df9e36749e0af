"""The figures, drawn: SVG files that a README or a page can show."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from holdfast.bench.figures import Figure

_PROCESSES = {"server": "#3b6fb6", "postgres": "#5b9a68", "valkey": "#d58a3a", "worker": "#8a6bb1", "client": "#a9a9a9"}
"""The colour of each kind of process, in every plot."""
_NOOP = "#a9a9a9"
_LINES = ("#3b6fb6", "#c8553d", "#5b9a68", "#d58a3a", "#8a6bb1", "#3f9fa6", "#a1765c", "#c76fa2", "#6f7d8c", "#a3a23a")
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters
    "svg.hashsalt": "holdfast",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
}
_SHOWN = (50.0, 90.0, 99.0, 99.9, 99.99)
_DASHES = ("-", "--")
_NOT_DRAWN = {
    "latency": ("noop", "login", "connections-", "growth-"),
    # What is looked up or checked is no order, and would make the bars of orders small.
    "cpu": ("login", "history", "connections-"),
}
"""Cases, or beginnings of their names, that a plot leaves out."""


def draw(figures: Sequence[Figure], out: Path) -> list[Path]:
    """Draws what there are figures for; answers the files. A void figure is not drawn."""
    sound = [figure for figure in figures if not figure.void]
    plots: list[tuple[str, Callable[[Axes, list[Figure]], None], list[Figure]]] = [
        ("connections", _connections, _called(sound, "connections-")),
        ("latency", _latency, _others(sound, "latency")),
        ("growth", _growth, _called(sound, "growth-")),
        ("cpu", _cpu, _others(sound, "cpu")),
    ]
    files = []
    with mpl.rc_context(_STYLE):
        for name, plot, shown in plots:
            if shown:
                files.append(out / f"{name}.svg")
                _save(plot, shown, files[-1])
    return files


def _save(plot: Callable[[Axes, list[Figure]], None], shown: list[Figure], file: Path) -> None:
    # A bar, or a line of the legend, needs its place.
    height = max(4.2, 1.4 + 0.3 * len(shown))
    canvas = Canvas(figsize=(8, height), layout="constrained")
    plot(canvas.add_subplot(), shown)
    canvas.savefig(file, metadata={"Date": None})


def _called(figures: Sequence[Figure], start: str) -> list[Figure]:
    return [figure for figure in figures if figure.case.startswith(start)]


def _others(figures: Sequence[Figure], plot: str) -> list[Figure]:
    names = [name for name in _NOT_DRAWN[plot] if not name.endswith("-")]
    starts = tuple(name for name in _NOT_DRAWN[plot] if name.endswith("-"))
    return [figure for figure in figures if figure.case not in names and not figure.case.startswith(starts)]


def _connections(axes: Axes, figures: list[Figure]) -> None:
    figures = sorted(figures, key=lambda figure: figure.connections)
    counts = [figure.connections for figure in figures]
    axes.set_title("Throughput against connections")
    axes.plot(counts, [figure.noop for figure in figures], "o-", color=_NOOP, label="a POST that does nothing")
    axes.plot(counts, [figure.rate for figure in figures], "o-", color=_LINES[0], label="orders, committed")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))
    axes.set_xlabel("connections")
    _per_second(axes)
    axes.legend()


def _latency(axes: Axes, figures: list[Figure]) -> None:
    axes.set_title("Latency by percentile")
    for number, figure in enumerate(figures):
        points = [(1 / (1 - percent / 100), ms) for percent, ms in figure.latency_ms if percent < 100]
        dashes, colour = _DASHES[number // len(_LINES) % len(_DASHES)], _LINES[number % len(_LINES)]
        axes.plot(*zip(*points, strict=True), dashes, color=colour, label=figure.case, linewidth=1.6)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator([1 / (1 - percent / 100) for percent in _SHOWN]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 - 100 / value:g} %"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.set_xlabel("of the requests took at most")
    axes.set_ylabel("milliseconds")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _growth(axes: Axes, figures: list[Figure]) -> None:
    axes.set_title("Throughput against the orders that are there already")
    places = range(len(figures))
    axes.bar(places, [figure.rate for figure in figures], 0.55, color=_LINES[0])
    for place, figure in zip(places, figures, strict=True):
        axes.annotate(
            f"{figure.rate:,.0f}/s\n{figure.ratio:.2f} of no-op",
            (place, figure.rate),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
        )
    axes.margins(y=0.2)
    axes.set_xticks(places, [figure.case.removeprefix("growth-").replace("m", " million") for figure in figures])
    axes.grid(axis="x", visible=False)
    _per_second(axes)


def _cpu(axes: Axes, figures: list[Figure]) -> None:
    axes.set_title("CPU time of one right answer, by process")
    names = [figure.case for figure in figures]
    left = [0.0] * len(figures)
    for process, colour in _PROCESSES.items():
        widths = [figure.cpu_by_process.get(process, 0.0) for figure in figures]
        axes.barh(names, widths, 0.65, left=left, color=colour, label=process)
        left = [before + width for before, width in zip(left, widths, strict=True)]
    for place, figure in enumerate(figures):
        axes.annotate(
            f"{figure.cpu_us_per_order:,.0f}",
            (left[place], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.invert_yaxis()
    axes.margins(x=0.08)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("microseconds (the number: without the client)")
    axes.figure.legend(loc="outside lower center", ncols=len(_PROCESSES))


def _per_second(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.set_ylabel("per second")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
