"""How results look: arrays and an Axes in, Axes out; computes nothing but the spread it draws.

One style for all figures. A figure is one or more panels, each an SVG of its own, so that panels stand side by side on
a desk and below one another on a phone. Colours are written as CSS variables with the light colour as fallback: the
same drawing follows the page between light and dark. Series differ in luminance and marker, so that grey is enough;
dashed always means a bound or a prediction, a band the members' range, pale marks the control.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import drawn

INK, GRID, PALE = "#24292f", "#d4d9df", "#828c97"
SERIES = ("#0b3c6f", "#c1440e", "#3a9e8f", "#d9a21b")
MARKERS = ("o", "s", "^", "D")
_VARIABLES = {INK: "ink", GRID: "grid", PALE: "pale", **{c: f"series-{i}" for i, c in enumerate(SERIES)}}
DARK = {
    "ink": "#d7dde4", "grid": "#3a424c", "pale": "#8f99a5",
    "series-0": "#8ec5ff", "series-1": "#ff9b6b", "series-2": "#5fd0bd", "series-3": "#f4d06f",
}  # fmt: skip

GROUND = {"light": "#ffffff", "dark": "#14181e"}  # of a free-standing file; a page has its own

_DARK_RULES = ";".join(f"--lowrank-{role}:{colour}" for role, colour in DARK.items())
# The book marks its mode on <html>, JupyterLab on <body>.
_STYLESHEET = (
    f'<style>html[data-theme="dark"] .lowrank-figure,body[data-jp-theme-light="false"] .lowrank-figure{{{_DARK_RULES}}}'
    "</style>"
)

STYLE = {
    "svg.fonttype": "path",
    "font.size": 11.0,
    "axes.titlesize": 11.5,
    "axes.labelsize": 11.0,
    "legend.fontsize": 9.5,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
}


def panels(count: int = 1, *, width: float = 4.6, height: float = 3.5) -> list[Axes]:
    """`count` axes, each on a figure of its own, `width` by `height` inches."""
    with matplotlib.rc_context(STYLE):
        return [Figure(figsize=(width, height), layout="constrained").subplots() for _ in range(count)]


def spread(ax: Axes, x, y, *, label: str, series: int = 0) -> Axes:
    """The median over members as a line with marks, their whole range as a band: x (t,), y (members, t)."""
    y = np.atleast_2d(_finite("y", y))
    colour = SERIES[series]
    ax.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.22, linewidth=0)
    every = max(len(x) // 8, 1)
    ax.plot(x, np.median(y, 0), color=colour, marker=MARKERS[series], markevery=(series % every, every), label=label)
    return ax


def control(ax: Axes, x, y, *, label: str) -> Axes:
    """Like `spread`, pale: what a broken premise gives."""
    y = np.atleast_2d(_finite("y", y))
    ax.fill_between(x, y.min(0), y.max(0), color=PALE, alpha=0.18, linewidth=0)
    ax.plot(x, np.median(y, 0), color=PALE, linewidth=1.3, marker="x", markevery=max(len(x) // 8, 1), label=label)
    return ax


def predicted(ax: Axes, x, y, *, label: str | None = None, series: int | None = None) -> Axes:
    """A bound or a prediction: dashed, in ink or in the colour of the series that it belongs to."""
    ax.plot(x, y, color=INK if series is None else SERIES[series], linestyle=(0, (5, 3)), linewidth=1.4, label=label)
    return ax


def band(ax: Axes, x, low, high, *, series: int = 0) -> Axes:
    """Where measurements should lie, between two curves: a shaded band in the colour of its series."""
    ax.fill_between(x, _finite("low", low), _finite("high", high), color=SERIES[series], alpha=0.18, linewidth=0)
    return ax


def level(ax: Axes, y: float, *, label: str) -> Axes:
    """A bound or a prediction that is constant: a dashed horizontal line."""
    ax.axhline(y, color=INK, linestyle=(0, (5, 3)), linewidth=1.4, label=label)
    return ax


def dots(ax: Axes, x, y, *, label: str | None = None, series: int | None = 0, size: float = 14.0) -> Axes:
    """One mark a comparison, pale for a control (`series` None); drawn as pixels where there are thousands."""
    x, y = np.ravel(_finite("x", x)), np.ravel(_finite("y", y))
    colour, marker = (PALE, "x") if series is None else (SERIES[series], MARKERS[series])
    ax.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.75, linewidths=0.8 if marker == "x" else 0,
               label=label, rasterized=x.size > 1500)  # fmt: skip
    return ax


def diagonal(ax: Axes, *, label: str) -> Axes:
    """The dashed line y = x across what is drawn."""
    low, high = min(ax.get_xlim()[0], ax.get_ylim()[0]), max(ax.get_xlim()[1], ax.get_ylim()[1])
    if ax.get_xscale() == "log":
        low = max(low, min(ax.get_xlim()[0], ax.get_ylim()[0], key=abs))
    return predicted(ax, [low, high], [low, high], label=label)


def matrix(ax: Axes, w, *, largest: float) -> Axes:
    """A matrix as a map from −`largest` (dark) over 0 to +`largest` (light): one scale of luminance, legible in grey."""
    import seaborn  # two seconds, and only needed here

    with matplotlib.rc_context(STYLE):
        seaborn.heatmap(_finite("w", w), ax=ax, cmap="cividis", vmin=-largest, vmax=largest, cbar=True, rasterized=True,
                        xticklabels=False, yticklabels=False)  # fmt: skip
    ax.grid(False)
    return ax


def phase_map(ax: Axes, x, y, values, *, label: str) -> Axes:
    """values (rows, columns) between 0 (dark) and 1 (light) over evenly spaced y and x: one scale of luminance for all maps,
    legible in grey; curves may be laid over it. A logarithmic axis is even in ratios: set its scale before.

    Raises ValueError for numbers outside [0, 1], and for x or y that are not even."""
    values = _finite("values", values)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"values: expected numbers from 0 to 1, got {values.min():g} to {values.max():g}")
    edges = [_edges(name, centres, axis.get_scale()) for name, centres, axis in (("x", x, ax.xaxis), ("y", y, ax.yaxis))]
    with matplotlib.rc_context(STYLE):
        mesh = ax.pcolormesh(*edges, values, cmap="cividis", vmin=0, vmax=1, rasterized=True)
        ax.figure.colorbar(mesh, ax=ax, label=label)
    ax.grid(False)
    return ax


def boundary(ax: Axes, x, y, *, label: str, series: int = 0) -> Axes:
    """A curve over a map: black with a white rim, so that it stands out from dark and light cells in both modes; the
    first `series` is what was measured, marks, the others are bounds or predictions in dashes of their own."""
    from matplotlib.patheffects import withStroke

    dashes = ("none", (0, (5, 3)), (0, (1.2, 1.2)), (0, (7, 2, 1.5, 2)))[series]
    ax.plot(x, y, color="#000000", linestyle=dashes, linewidth=1.7, marker="" if series else "o", label=label,
            path_effects=[withStroke(linewidth=3.6, foreground="#ffffff")])  # fmt: skip
    return ax


def _edges(name: str, centres, scale: str) -> np.ndarray:
    """Borders of cells around evenly spaced centres."""
    at = _finite(name, np.log(centres) if scale == "log" else centres)
    step = (at[-1] - at[0]) / max(len(at) - 1, 1)
    if len(at) < 2 or step <= 0 or np.abs(np.diff(at) - step).max() > 1e-6 * step:
        raise ValueError(f"{name}: expected at least two increasing, evenly spaced numbers on a {scale} axis")
    edges = np.append(at - step / 2, at[-1] + step / 2)
    return np.exp(edges) if scale == "log" else edges


def bars(ax: Axes, groups: Sequence[str], values: dict[str, np.ndarray], *, control: Sequence[str] = ()) -> Axes:
    """Groups of bars: for each label the members' median, (groups, members), with their range as a line; those of the
    labels in `control` are pale, every second one hatched."""
    width = 0.8 / len(values)
    at = np.arange(len(groups))
    for index, (label, value) in enumerate(values.items()):
        value = _finite(label, value)
        middle = np.median(value, 1)
        centre = at + (index - (len(values) - 1) / 2) * width
        error = np.abs(np.stack([middle - value.min(1), value.max(1) - middle]))
        colour, hatch = (PALE, ("", "////")[control.index(label) % 2]) if label in control else (SERIES[index], "")
        ax.bar(centre, middle, width * 0.92, color=colour, hatch=hatch, edgecolor=INK, linewidth=0, label=label, yerr=error,
               ecolor=INK, capsize=2)  # fmt: skip
    ax.set_xticks(at, groups)
    ax.grid(False, axis="x")
    return ax


def images(ax: Axes, pictures, *, columns: int) -> Axes:
    """Small grey images (count, h, w) in a grid with gaps, each with its own scale of grey."""
    pictures = np.asarray(pictures)
    low, high = pictures.min((1, 2), keepdims=True), pictures.max((1, 2), keepdims=True)
    padded = np.pad((pictures - low) / (high - low), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    rows = [np.concatenate(padded[start : start + columns], axis=1) for start in range(0, len(padded), columns)]
    ax.imshow(np.concatenate(rows, axis=0), cmap="gray_r")
    ax.axis("off")
    return ax


def legend(ax: Axes, **placement) -> Axes:
    """The legend, in the one style."""
    with matplotlib.rc_context(STYLE):
        ax.legend(**placement)
    return ax


def _finite(name: str, values) -> np.ndarray:
    """`values` as an array. Raises ValueError for nan or infinity: failed members are reported, never plotted."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite numbers, got {int((~np.isfinite(array)).sum())} of {array.size} that are not")
    return array


class Shown:
    """A figure as HTML: panels, alternative text and caption; its name, its text and its data also in the metadata."""

    def __init__(self, name: str, alt: str, caption: str, drawings: Sequence[str], data: Sequence[dict]):
        self.name, self.alt, self.caption, self.drawings, self.data = name, alt, caption, tuple(drawings), list(data)

    def __repr__(self) -> str:
        return f"figure {self.name}: {self.alt}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        markup = (
            f'{_STYLESHEET}<figure class="lowrank-figure" id="figure-{self.name}">'
            f'<div role="img" aria-label="{html.escape(self.alt)}" '
            'style="display:flex;flex-wrap:wrap;gap:0.5rem 1.5rem;justify-content:center">'
            f"{''.join(self.drawings)}</div>"
            f'<figcaption class="tex2jax_process">{self.caption}</figcaption></figure>'
        )
        metadata = {"name": self.name, "alt": self.alt, "caption": self.caption, "data": self.data}
        return {"text/plain": repr(self), "text/html": markup}, {"lowrank_figure": metadata}


def show(*axes: Axes, name: str, alt: str, caption: str) -> Shown:
    """The figure made of these panels, to be the last expression of a cell tagged `nbval-ignore-output`.

    `name` is its anchor (letters, digits, hyphens); `alt` says in words what the eye sees, with numbers from the data;
    `caption` is HTML and says the takeaway. What is drawn goes into the metadata as data (`lowrank.drawn`).
    Raises ValueError for an empty alt or caption, a bad name, or artists whose data cannot be read back.
    """
    if not axes:
        raise ValueError("axes: expected at least one panel, got none")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"name: expected lower-case letters, digits and hyphens, got {name!r}")
    for what, text in (("alt", alt), ("caption", caption)):
        if not text.strip():
            raise ValueError(f"{what}: expected a sentence, got an empty text")
    drawings = [svg(ax, salt=f"{name}-{index}") for index, ax in enumerate(axes)]
    return Shown(name, alt, caption, drawings, drawn.series(axes))


def svg(ax: Axes, *, salt: str, colour: Callable[[str, str], str] | None = None) -> str:
    """The axes' figure as one <svg> element. `colour(name, light)` says how a colour is written; by default as the
    CSS variable --lowrank-name with the light one as fallback."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": salt}):
        ax.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    width, height = (float(side) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups())
    text = re.sub(
        r"<svg [^>]*>",
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width:g} '
        f'{height:g}" style="flex:1 1 {width * 0.75:.0f}px;max-width:{width * 1.25:.0f}px;min-width:0" '
        'aria-hidden="true">',
        text,
        count=1,
    )
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'(id="|url\(#|xlink:href="#)', lambda match: f"{match.group(1)}{salt}-", text)
    for light, role in _VARIABLES.items():
        written = colour(role, light) if colour else f"var(--lowrank-{role}, {light})"
        text = re.sub(light, lambda _: written, text, flags=re.I)
    return text


def picture(drawings: Sequence[str], *, mode: str | None = None) -> str:
    """Panels side by side as one free-standing SVG file: in `mode` "light" or "dark" on a ground of its own, or, with
    None, following the reader's light or dark. Raises ValueError for another mode."""
    if mode not in (None, *GROUND):
        raise ValueError(f"mode: expected light, dark or None, got {mode!r}")
    inner, offset, tallest = [], 0.0, 0.0
    for drawing in drawings:
        width, height = (float(side) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing).groups())
        inner.append(re.sub(r'style="flex[^"]*"', f'x="{offset:g}" width="{width:g}" height="{height:g}"', drawing, count=1))
        offset, tallest = offset + width + 12, max(tallest, height)
    head = f"<style>@media (prefers-color-scheme: dark){{:root{{{_DARK_RULES}}}}}</style>"
    body = "".join(inner)
    if mode:
        head = f'<rect width="100%" height="100%" fill="{GROUND[mode]}"/>'
        colours = {role: light if mode == "light" else DARK[role] for light, role in _VARIABLES.items()}
        body = re.sub(r"var\(--lowrank-([\w-]+), #\w+\)", lambda match: colours[match.group(1)], body)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {offset - 12:g} {tallest:g}" '
        f'width="{offset - 12:g}" height="{tallest:g}">{head}{body}</svg>\n'
    )
