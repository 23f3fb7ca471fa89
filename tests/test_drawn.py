"""The data of a figure are what was handed to the drawing functions: read back through the CSV, number by number."""

import io
import json
import math

import numpy as np
import pandas
import pytest

from lowrank import drawn, figures

X = np.geomspace(0.1, 30.0, 19)
Y = np.random.default_rng(0).standard_normal((5, 19))


def read(*axes) -> pandas.DataFrame:
    """The CSV of the figure of these panels, as a reader gets it: by way of the metadata and JSON."""
    _, metadata = figures.show(*axes, name="a", alt="a", caption="c")._repr_mimebundle_()
    text = drawn.table(json.loads(json.dumps(metadata["lowrank_figure"]["data"], allow_nan=False)))
    return pandas.read_csv(io.StringIO(text), keep_default_na=True)


@pytest.fixture
def ax():
    return figures.panels()[0]


@pytest.mark.parametrize("draw", [figures.spread, figures.control])
def test_members_are_their_median_and_their_range(ax, draw):
    ax.set(xscale="log", xlabel="time", ylabel=r"$\sigma_1$", title="a, b")
    found = read(draw(ax, X, Y, label="members"))
    assert set(found.kind) == {"median and range"} and set(found.label) == {"members"}
    assert set(found.title) == {"a, b"} and set(found.x_label) == {"time"} and set(found.y_label) == {r"$\sigma_1$"}
    for column, expected in (("x", X), ("y", np.median(Y, 0)), ("low", Y.min(0)), ("high", Y.max(0))):
        np.testing.assert_array_equal(found[column], expected)


def test_each_line_keeps_its_own_band(ax):
    for index in range(3):
        figures.spread(ax, X, Y + index, label=f"{index}", series=index)
    figures.control(ax, X, Y, label="pale")
    figures.control(ax, X, 2 * Y, label="paler")
    found = read(ax)
    for label, expected in [(f"{index}", Y + index) for index in range(3)] + [("pale", Y), ("paler", 2 * Y)]:
        mine = found[found.label.astype(str) == label]
        np.testing.assert_array_equal(mine.low, expected.min(0))
        np.testing.assert_array_equal(mine.high, expected.max(0))


def test_two_controls_of_one_colour_do_not_share_a_band(ax):
    figures.control(ax, X, Y, label="wide")
    figures.control(ax, X, Y / 1000 + np.median(Y, 0), label="narrow, inside the other's band")
    found = read(ax)
    narrow = found[found.label.str.startswith("narrow")]
    np.testing.assert_array_equal(narrow.low, (Y / 1000 + np.median(Y, 0)).min(0))


def test_a_line_in_a_band_of_another_colour_stays_alone(ax):
    ax.fill_between(X, Y.min(0), Y.max(0), color=figures.SERIES[1])
    figures.predicted(ax, X, np.median(Y, 0))
    found = read(ax)
    assert set(found.kind) == {"band", "dashed line"} and found[found.kind == "dashed line"].low.isna().all()


def test_a_single_point_is_a_spread_as_well(ax):
    found = read(figures.spread(ax, [2.0], Y[:, :1], label="one"))
    assert found.x.tolist() == [2.0] and found.low.tolist() == [Y[:, 0].min()]


def test_a_band_without_a_line(ax):
    ax.fill_between(X, Y[0] + 1, Y[0])  # the upper side first
    found = read(ax)
    assert set(found.kind) == {"band"}
    np.testing.assert_array_equal(found.low, Y[0])
    np.testing.assert_array_equal(found.high, Y[0] + 1)


def test_predictions_levels_and_plain_lines(ax):
    ax.plot(X, Y[0], label="plain")
    figures.predicted(ax, X, Y[1], label="bound")
    figures.level(ax, 1 / 3, label="guess")
    ax.axvline(0.7)
    ax.plot(X, Y[2], "o", color="black")
    found = read(ax)
    assert found.groupby("series").kind.first().tolist() == ["line", "dashed line", "level", "upright", "marks"]
    np.testing.assert_array_equal(found[found.kind == "line"].y, Y[0])
    np.testing.assert_array_equal(found[found.kind == "dashed line"].y, Y[1])
    assert found[found.kind == "level"].y.tolist() == [1 / 3] and found[found.kind == "level"].x.isna().all()
    assert found[found.kind == "upright"].x.tolist() == [0.7]
    np.testing.assert_array_equal(found[found.kind == "marks"].y, Y[2])


@pytest.mark.parametrize("series", [0, None])
def test_marks_also_by_the_thousand(ax, series):
    x, y = np.random.default_rng(1).random((2, 2000))  # drawn as pixels, kept as numbers
    found = read(figures.dots(ax, x, y, label="dots", series=series))
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert set(found.kind) == {"marks"}


def test_the_diagonal_goes_from_corner_to_corner(ax):
    figures.dots(ax, [1.0, 2.0], [3.0, 4.0])
    limits = ax.get_xlim(), ax.get_ylim()
    found = read(figures.diagonal(ax, label="equal"))
    line = found[found.kind == "dashed line"]
    assert line.x.tolist() == line.y.tolist() == [min(limits[0][0], limits[1][0]), max(limits[0][1], limits[1][1])]


def test_a_matrix_by_row_and_column_without_its_colour_bar(ax):
    w = Y[:, :4]
    found = read(figures.matrix(ax, w, largest=3.0))
    assert len(found) == w.size and set(found.kind) == {"matrix"}
    np.testing.assert_array_equal(found.pivot(index="row", columns="column", values="value"), w)


def test_a_map_by_place_on_both_scales_without_its_colour_bar(ax):
    ax.set_yscale("log")
    x, y, values = np.linspace(0.0, 0.3, 5), np.geomspace(1e-3, 1.0, 4), np.random.default_rng(3).random((4, 5))
    figures.phase_map(ax, x, y, values, label="accuracy")
    figures.boundary(ax, x, np.full(5, 0.2), label="measured")
    found = read(figures.legend(figures.boundary(ax, x, np.full(5, 0.1), label="predicted", series=1)))
    assert found.groupby("label").kind.first().to_dict() == {"accuracy": "map", "measured": "marks", "predicted": "dashed line"}
    cells = found[found.kind == "map"]
    assert set(cells.label) == {"accuracy"} and len(found) == values.size + 10
    np.testing.assert_array_equal(cells.pivot(index="row", columns="column", values="value"), values)
    np.testing.assert_allclose(cells.x, x[cells.column.astype(int)], rtol=1e-12, atol=1e-15)  # middles of borders: a few roundings
    np.testing.assert_allclose(cells.y, y[cells.row.astype(int)], rtol=1e-12)


def test_bars_with_groups_medians_and_ranges(ax):
    values = {"one": Y[:2, :5], "two": Y[2:4, :5]}
    found = read(figures.bars(ax, ["task A", "task B"], values))
    for label, value in values.items():
        mine = found[found.label == label]
        assert mine.group.tolist() == ["task A", "task B"] and set(mine.kind) == {"bars"}
        np.testing.assert_array_equal(mine.y, np.median(value, 1))
        offset = -0.2 if label == "one" else 0.2
        np.testing.assert_allclose(mine.x, [offset, 1 + offset], atol=4 * np.finfo(float).eps, rtol=0)
        # drawn as median ± distance, so one rounding each way
        np.testing.assert_allclose(mine.low, value.min(1), atol=4 * np.finfo(float).eps, rtol=0)
        np.testing.assert_allclose(mine.high, value.max(1), atol=4 * np.finfo(float).eps, rtol=0)
    assert len(found) == 4  # nothing of the error bars' caps


def test_images_cell_by_cell_with_gaps_between(ax):
    pictures = np.random.default_rng(2).integers(0, 17, (3, 8, 8)) / 16
    pictures[:, 0, :2] = 0, 1  # so that each has its full scale
    found = read(figures.images(ax, pictures, columns=3))
    grid = found.pivot(index="row", columns="column", values="value").to_numpy()
    assert set(found.kind) == {"image"} and np.isnan(grid[8]).all() and np.isnan(grid[:, 8]).all()
    for index in range(3):
        np.testing.assert_array_equal(grid[:8, 9 * index : 9 * index + 8], pictures[index])


def test_named_ticks_name_the_points(ax):
    figures.dots(ax, [0, 0, 1], [1.0, 2.0, 3.0])
    ax.set_xticks([0, 1], ["before", "after"])
    assert read(ax).group.tolist() == ["before", "before", "after"]


def test_what_is_not_finite_is_a_gap(ax):
    figures.predicted(ax, [1.0, 2.0, 3.0], [1.0, math.inf, math.nan])
    found = read(ax)
    assert found.y.isna().tolist() == [False, True, True] and found.x.tolist() == [1, 2, 3]


def test_panels_and_axes_over_them_are_told_apart():
    left, right = figures.panels(2)
    left.plot([1], [2])
    over = left.twinx()
    over.set_ylabel("other")
    over.plot([3], [4])
    right.plot([5], [6])
    found = read(left, right)
    assert found.panel.tolist() == [1, 1, 2] and found.series.tolist() == [1, 2, 1] and found.y.tolist() == [2, 4, 6]
    assert found.y_label.fillna("").tolist() == ["", "other", ""]


@pytest.mark.parametrize("draw, artist", [
    (lambda ax: ax.hist([1, 2]), None), (lambda ax: ax.vlines([1], 0, 1), "LineCollection"), (lambda ax: ax.pie([1]), "Wedge"),
    (lambda ax: ax.scatter([1, 2], [1, 2], c=[3, 4]), "PathCollection"), (lambda ax: ax.barh([1], [2]), "lying"),
    (lambda ax: ax.errorbar([1], [2], yerr=[0.1]), "LineCollection"), (lambda ax: ax.violinplot([[1, 2, 3]]), "LineCollection|polygon"),
])  # fmt: skip
def test_nothing_is_drawn_that_the_data_lack(ax, draw, artist):
    draw(ax)
    if artist is None:
        assert set(read(ax).kind) == {"bars"}
        return
    with pytest.raises(ValueError, match=f"figure: expected .*{artist}.*drawn.py" if "|" not in artist else artist):
        figures.show(ax, name="a", alt="a", caption="c")
