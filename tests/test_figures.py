import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest

from lowrank import figures


@pytest.fixture
def shown():
    left, right = figures.panels(2)
    x = np.arange(1, 20)
    figures.spread(left, x, np.random.default_rng(0).random((5, 19)), label="members")
    figures.control(left, x, np.ones((5, 19)), label="control")
    figures.level(left, 0.5, label="bound")
    figures.legend(left)
    figures.matrix(right, np.eye(4), largest=1.0)
    return figures.show(left, right, name="a-figure", alt="two <panels>", caption="It holds.")


def test_panels_are_well_formed_and_follow_the_page(shown):
    assert len(shown.drawings) == 2
    for drawing in shown.drawings:
        ElementTree.fromstring(drawing)
        assert "width=" not in drawing.split(">")[0].replace("max-width", "")
        assert f"var(--lowrank-ink, {figures.INK})" in drawing
    plain = shown.drawings[0]
    for colour in (figures.INK, figures.GRID, figures.SERIES[0]):
        assert plain.count(colour) == plain.count(f", {colour})")  # no colour outside a variable


def test_ids_of_panels_do_not_clash(shown):
    ids = [set(part.split('"')[0] for part in drawing.split('id="')[1:]) for drawing in shown.drawings]
    assert not ids[0] & ids[1]
    for drawing, own in zip(shown.drawings, ids):
        assert all(part.split(")")[0] in own for part in drawing.split("url(#")[1:])


def test_html_has_alternative_text_caption_and_anchor(shown):
    data, metadata = shown._repr_mimebundle_()
    markup = data["text/html"]
    assert 'aria-label="two &lt;panels&gt;"' in markup and "It holds.</figcaption>" in markup and 'id="figure-a-figure"' in markup
    assert metadata["lowrank_figure"]["name"] == "a-figure"
    for role, colour in figures.DARK.items():
        assert f"--lowrank-{role}:{colour}" in markup


def test_the_same_data_draw_the_same_bytes():
    def draw():
        (ax,) = figures.panels()
        figures.dots(ax, [1, 2], [3, 4], label="dots")
        return figures.show(ax, name="same", alt="a", caption="c").drawings

    assert draw() == draw()


def test_a_free_standing_picture_is_one_file(shown):
    picture = figures.picture(shown.drawings)
    ElementTree.fromstring(picture)
    assert "prefers-color-scheme: dark" in picture


@pytest.mark.parametrize("mode, ink", [("light", figures.INK), ("dark", figures.DARK["ink"])])
def test_a_picture_can_be_fixed_to_light_or_dark(shown, mode, ink):
    picture = figures.picture(shown.drawings, mode=mode)
    ElementTree.fromstring(picture)
    assert "var(" not in picture and "prefers-color-scheme" not in picture and ink in picture


def test_light_and_dark_differ_only_in_colours(shown):
    light, dark = (figures.picture(shown.drawings, mode=mode) for mode in ("light", "dark"))
    colours = re.compile(r"#[0-9a-f]{6}\b")
    assert light != dark and colours.sub("", light) == colours.sub("", dark)
    assert not {figures.INK, figures.GRID, figures.PALE, *figures.SERIES} & set(colours.findall(dark))


def test_another_mode_is_refused(shown):
    with pytest.raises(ValueError, match="mode: expected light, dark or None, got 'grey'"):
        figures.picture(shown.drawings, mode="grey")


def test_series_differ_in_grey_in_light_and_dark():
    def luminance(colour):
        r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (r, g, b)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert contrast(figures.INK, "#ffffff") > 7 and contrast(figures.DARK["ink"], "#14181e") > 7
    for index, colour in enumerate(figures.SERIES):
        assert contrast(colour, "#ffffff") > 2 and contrast(figures.DARK[f"series-{index}"], "#14181e") > 4.5
    assert len(set(figures.MARKERS)) == len(figures.SERIES)
    ordered = sorted(luminance(colour) for colour in figures.SERIES)
    assert all((b + 0.05) / (a + 0.05) > 1.3 for a, b in zip(ordered, ordered[1:]))


def test_members_that_are_not_finite_are_refused():
    (ax,) = figures.panels()
    with pytest.raises(ValueError, match="y: expected finite numbers, got 3 of 6"):
        figures.spread(ax, [1, 2, 3], [[1.0, 2.0, 3.0], [np.nan] * 3], label="a")


@pytest.mark.parametrize("options, message", [({"name": "A b"}, "name: expected"), ({"alt": " "}, "alt: expected"), ({"caption": ""}, "caption: expected")])
def test_figures_without_words_are_refused(options, message):
    (ax,) = figures.panels()
    with pytest.raises(ValueError, match=message):
        figures.show(ax, **{"name": "a", "alt": "a", "caption": "c", **options})


@pytest.mark.parametrize("x, values, message", [
    ([1.0, 2.0, 4.0], np.zeros((2, 3)), "x: expected at least two increasing, evenly spaced numbers on a linear axis"),
    ([1.0], np.zeros((2, 1)), "x: expected at least two"),
    ([1.0, 2.0, 3.0], np.full((2, 3), 1.5), "values: expected numbers from 0 to 1, got 1.5 to 1.5"),
    ([1.0, 2.0, 3.0], np.full((2, 3), np.nan), "values: expected finite numbers"),
])  # fmt: skip
def test_maps_that_mislead_are_refused(x, values, message):
    (ax,) = figures.panels()
    with pytest.raises(ValueError, match=message):
        figures.phase_map(ax, x, [0.0, 1.0], values, label="accuracy")


def test_a_map_puts_its_cells_where_they_belong():
    (ax,) = figures.panels()
    ax.set_xscale("log")
    figures.phase_map(ax, [1.0, 10.0, 100.0], [0.0, 1.0], np.zeros((2, 3)), label="accuracy")
    np.testing.assert_allclose(ax.get_xlim(), [10**-0.5, 10**2.5], rtol=1e-12)
    np.testing.assert_allclose(ax.get_ylim(), [-0.5, 1.5], rtol=1e-12)


def test_bars_of_a_control_are_pale_and_told_apart():
    (ax,) = figures.panels(1)
    figures.bars(ax, ["a"], {name: np.ones((1, 2)) for name in ("own", "own, control", "sum, control")}, control=("own, control", "sum, control"))
    own, first, second = (container.patches[0] for container in ax.containers if hasattr(container, "patches"))
    pale = matplotlib.colors.to_rgba(figures.PALE)
    assert own.get_facecolor() != pale == first.get_facecolor() == second.get_facecolor()
    assert (own.get_hatch(), first.get_hatch()) == ("", "") and second.get_hatch()
