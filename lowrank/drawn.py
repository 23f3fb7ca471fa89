"""What is drawn on axes, read back from their artists: the data of a figure are what the eye sees, at full precision.

A series is one artist (a band and the line inside it count as one) as a dict that JSON can hold: where it stands,
its label, its kind, and its numbers as lists; None where a number is not finite, which leaves a gap in the drawing.
`table` writes all series as CSV, one row a point, a bar or a cell of a matrix.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.image import AxesImage
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter

PLACE = ("panel", "title", "x_label", "y_label", "series", "label", "kind")
NUMBERS = ("group", "x", "y", "low", "high", "row", "column", "value")


def series(axes: Sequence[Axes]) -> list[dict]:
    """All series drawn on these panels (counted from 1) and on axes laid over them, colour bars excepted.

    Raises ValueError for an artist that it cannot read, so that no figure has data that its file lacks.
    """
    found = []
    for panel, first in enumerate(axes, start=1):
        count = 0
        for ax in [first, *(a for a in first.figure.axes if a is not first and a.get_label() != "<colorbar>")]:
            place = {"panel": panel, "title": ax.get_title(), "x_label": ax.get_xlabel(), "y_label": ax.get_ylabel()}
            for one in _read(ax):
                count += 1
                found.append({**place, "series": count, **one})
    return found


def rows(drawn: Sequence[dict]) -> Iterator[dict]:
    """One dict a point of `series`: its place, and those of `NUMBERS` that it has."""
    for one in drawn:
        place = {name: one[name] for name in PLACE}
        if "value" in one:
            for row, column in product(range(len(one["value"])), range(len(one["value"][0]))):
                at = {"x": one["x"][column], "y": one["y"][row]} if "x" in one else {}
                yield {**place, **at, "row": row, "column": column, "value": one["value"][row][column]}
            continue
        names = [name for name in NUMBERS if name in one]
        for numbers in zip(*(one[name] for name in names), strict=True):
            yield {**place, **dict(zip(names, numbers))}


def table(drawn: Sequence[dict]) -> str:
    """The series as CSV with a header; numbers as Python writes them, so that they are read back exactly.

    Rows and columns of matrices count from 0. Columns that no series of the figure has are left out.
    """
    used = {name for one in drawn for name in one} | ({"row", "column"} if any("value" in one for one in drawn) else set())
    text = io.StringIO()
    names = [name for name in PLACE + NUMBERS if name in PLACE or name in used]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(drawn))
    return text.getvalue()


def _read(ax: Axes) -> Iterator[dict]:
    children = [c for c in ax.get_children() if not isinstance(c, (Text, Legend))]
    children = [c for c in children if c not in (ax.patch, ax.xaxis, ax.yaxis, *ax.spines.values())]
    bars = [c for c in ax.containers if isinstance(c, BarContainer)]
    parts = {id(p) for bar in bars for p in bar.patches}
    for bar in bars:
        if isinstance(bar.errorbar, ErrorbarContainer):
            _, caps, lines = bar.errorbar.lines
            parts |= {id(p) for p in (*caps, *lines)}
        yield _bars(ax, bar)
    children = [c for c in children if id(c) not in parts]
    bands = [c for c in children if isinstance(c, PolyCollection) and c.get_array() is None]
    lines = [c for c in children if isinstance(c, Line2D)]
    inside = {id(line): band for line, band in _pairs(lines, bands)}
    taken = {id(band) for band in inside.values()}
    for child in children:
        if id(child) in taken:
            continue
        if isinstance(child, Line2D):
            yield _line(ax, child, inside.get(id(child)))
        elif child in bands:
            x, low, high = _band(child)
            yield {"label": _label(child), "kind": "band", "x": _list(x), "low": _list(low), "high": _list(high)}
        elif isinstance(child, PathCollection) and child.get_array() is None:
            x, y = np.ma.filled(child.get_offsets().astype(float), np.nan).T
            yield _points(ax, _label(child), "marks", x, y)
        elif isinstance(child, (QuadMesh, AxesImage)) and child.get_array().ndim == 2:
            value = np.ma.filled(np.ma.asarray(child.get_array(), dtype=float), np.nan)
            label = child.colorbar.ax.get_ylabel() if child.colorbar else ""  # on its bar: no legend can show a map
            if label:
                yield {"label": label, "kind": "map", **_centres(ax, child), "value": [_list(row) for row in value]}
            else:
                kind = "matrix" if isinstance(child, QuadMesh) else "image"
                yield {"label": _label(child), "kind": kind, "value": [_list(row) for row in value]}
        else:
            raise ValueError(
                "figure: expected lines, bands, marks, upright bars, heat maps and grey images, got "
                f"{type(child).__name__}; use the helpers of lowrank.figures, or teach lowrank/drawn.py to read it"
            )


def _line(ax: Axes, line: Line2D, band: PolyCollection | None) -> dict:
    x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
    if line.get_transform() == ax.get_yaxis_transform():  # axhline: x runs across the axes, whatever their limits
        return {"label": _label(line), "kind": "level", "y": _list(y[:1])}
    if line.get_transform() == ax.get_xaxis_transform():
        return {"label": _label(line), "kind": "upright", "x": _list(x[:1])}
    if band is not None:
        _, low, high = _band(band)
        return {**_points(ax, _label(line), "median and range", x, y), "low": _list(low), "high": _list(high)}
    bare = line.get_linestyle() in ("None", "none", "", " ")
    return _points(ax, _label(line), "marks" if bare else "dashed line" if line.is_dashed() else "line", x, y)


def _points(ax: Axes, label: str, kind: str, x, y) -> dict:
    """Points, with the names of their ticks where the axis names them instead of counting."""
    names = _ticks(ax)
    group = {"group": [names.get(float(value), "") for value in x]} if names else {}
    return {"label": label, "kind": kind, **group, "x": _list(x), "y": _list(y)}


def _bars(ax: Axes, bar: BarContainer) -> dict:
    if bar.orientation != "vertical":
        raise ValueError("figure: expected upright bars, got lying ones; teach lowrank/drawn.py to read them")
    x = np.array([patch.get_x() + patch.get_width() / 2 for patch in bar.patches])
    drawn = {"label": _label(bar), "kind": "bars"}
    names = _ticks(ax)
    if names:
        at = np.array(list(names))
        drawn["group"] = [names[float(at[np.abs(at - value).argmin()])] for value in x]
    drawn |= {"x": _list(x), "y": _list([patch.get_height() for patch in bar.patches])}
    if isinstance(bar.errorbar, ErrorbarContainer):
        ends = np.array([segment[:, 1] for segment in bar.errorbar.lines[2][0].get_segments()])
        drawn |= {"low": _list(ends.min(1)), "high": _list(ends.max(1))}
    return drawn


def _pairs(lines: list[Line2D], bands: list[PolyCollection]) -> Iterator[tuple[Line2D, PolyCollection]]:
    """Each line with the band around it: the first of its colour and its x that holds it and is not yet another's."""
    left = list(bands)
    for line in lines:
        x, y = (np.asarray(values, dtype=float) for values in line.get_data(orig=False))
        for band in left:
            at, low, high = _band(band)
            around = np.array_equal(at, x) and (low <= y).all() and (y <= high).all()
            if around and to_rgb(band.get_facecolor()[0]) == to_rgb(line.get_color()):
                left.remove(band)
                yield line, band
                break


def _band(collection: PolyCollection) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, low and high of a fill_between: its outline goes along one side and back along the other, and both ends twice."""
    parts = []
    for path in collection.get_paths():
        outline = np.asarray(path.vertices, dtype=float)
        count = (len(outline) - 3) // 2
        one, other = outline[1 : count + 1], outline[count + 2 : 2 * count + 2][::-1]
        if len(outline) != 2 * count + 3 or not np.array_equal(one[:, 0], other[:, 0]):
            raise ValueError("figure: expected bands of fill_between, got another polygon; teach lowrank/drawn.py to read it")
        parts.append((one[:, 0], np.minimum(one[:, 1], other[:, 1]), np.maximum(one[:, 1], other[:, 1])))
    return tuple(np.concatenate(side) for side in zip(*parts))


def _centres(ax: Axes, mesh: QuadMesh) -> dict:
    """Middles of a map's cells, on the scales of its axes."""
    corners = mesh.get_coordinates()
    sides = {"x": (corners[0, :, 0], ax.get_xscale()), "y": (corners[:, 0, 1], ax.get_yscale())}
    return {
        name: _list(np.sqrt(edges[1:] * edges[:-1]) if scale == "log" else (edges[1:] + edges[:-1]) / 2)
        for name, (edges, scale) in sides.items()
    }


def _ticks(ax: Axes) -> dict[float, str]:
    """Names of the ticks below, by where they stand, if somebody gave them names."""
    formatter = ax.xaxis.get_major_formatter()
    if not isinstance(formatter, (FixedFormatter, FuncFormatter)):
        return {}
    at = [float(value) for value in ax.get_xticks()]
    return {value: name for value, name in zip(at, formatter.format_ticks(at)) if name}


def _label(artist) -> str:
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _list(values) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in np.asarray(values, dtype=float)]
