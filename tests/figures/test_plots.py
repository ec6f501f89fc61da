import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from figures.plots import (
    NAMED_CLASSES,
    plot_accuracy_cost,
    plot_across,
    plot_cka,
    plot_cka_map,
    plot_class_change,
    plot_embedding_map,
    plot_map_pictures,
    plot_pies,
    plot_sparsity,
)
from figures.style import KIND_COLOURS, looks, plain

STRANGE = ["$x_1$ and $y$", "_hidden", "<b>&amp;", r"back\slash$"]


@pytest.fixture
def ax() -> Axes:
    return Figure(figsize=(5.9, 3.5), layout="constrained").subplots()


def texts(ax: Axes) -> list[str]:
    """Every text as a reader sees it: an escaped dollar sign is a dollar sign."""
    ax.figure.draw_without_rendering()
    found = [*ax.texts, *ax.get_xticklabels(), *ax.get_yticklabels()]
    return [text.get_text().replace(r"\$", "$") for text in found]


def legend(ax: Axes) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def cost_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "condition": ["dense", "dense, re-estimated", "merge 0.3", "merge 0.5", "prune 0.9"],
            "method": ["dense", "identity", "merge", "merge", "prune"],
            "params_kept": [1, 1, 0.49, 0.25, 0.1],
            "accuracy": [0.97, 0.96, 0.94, 0.9, 0.88],
            "accuracy_low": [0.96, 0.95, 0.93, 0.88, 0.85],
            "accuracy_high": [0.98, 0.97, 0.95, 0.92, np.nan],
        }
    )


def class_table(count: int) -> pd.DataFrame:
    delta = np.linspace(0.05, -0.2, count)
    return pd.DataFrame(
        {
            "name": [f"class {i}" for i in range(count)],
            "delta": delta,
            "delta_low": delta - 0.02,
            "delta_high": delta + 0.03,
            "p_adjusted": np.where(delta < -0.1, 0.01, 0.2),
        }
    )


def pie_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "condition": ["merge 0.5", "prune 0.9", "compressed"],
            "forgotten": [20.0, 8, 0],
            "still wrong": [5.0, 0, 0],
            "gained": [1.0, 2, 0],
            "label unknown": [0.0, 0, 7],
            "pies": [26.0, 10, 7],
            "pie_share": [0.26, 0.1, np.nan],
            "expected_null": [6.0, 6, np.nan],
            "expected_null_low": [3.0, 3, np.nan],
            "expected_null_high": [9.0, 12, np.nan],
        }
    )


def cka_table(*, references: tuple[float, float] = (0.8, 0.8)) -> pd.DataFrame:
    # The order of the layers is not that of the alphabet.
    layers = ["stem", "layer1", "head"]
    return pd.DataFrame(
        {
            "condition": ["merge 0.5"] * 3 + ["prune 0.9"] * 3,
            "layer": layers * 2,
            "value": [0.99, 0.95, 0.9, 0.98, 0.97, 0.96],
            "reference": [references[0]] * 3 + [references[1]] * 3,
        }
    )


class TestAccuracyCost:
    def test_points_intervals_and_the_dense_lines_are_where_the_table_says(self, ax: Axes) -> None:
        table = cost_table()
        assert plot_accuracy_cost(table, ax) is ax
        markers = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
        points = sorted((float(m.get_xdata()[0]), float(m.get_ydata()[0])) for m in markers)
        assert points == [(0.1, 0.88), (0.25, 0.9), (0.49, 0.94)]
        bars = [tuple(path.vertices[:, 1]) for c in ax.collections for path in c.get_paths()]
        assert (0.93, 0.95) in bars
        assert (0.88, 0.92) in bars
        level = [
            line.get_ydata()[0] for line in ax.lines if line.get_label() in ("dense", "dense, re-estimated")
        ]
        assert level == [0.97, 0.96]
        assert legend(ax) == ["dense", "dense, re-estimated"]

    def test_methods_share_a_marker_and_every_condition_is_named(self, ax: Axes) -> None:
        plot_accuracy_cost(cost_table(), ax)
        marker = {
            float(line.get_xdata()[0]): line.get_marker()
            for line in ax.lines
            if line.get_marker() not in ("None", None, "")
        }
        assert marker[0.49] == marker[0.25] != marker[0.1]
        assert {"merge 0.3", "merge 0.5", "prune 0.9"} <= set(texts(ax))

    def test_names_of_crowded_points_do_not_cover_each_other(self, ax: Axes) -> None:
        table = pd.concat([cost_table().iloc[[0]]] + [cost_table().iloc[[3]]] * 6, ignore_index=True)
        table["condition"] = ["dense"] + [f"method{i} 0.5" for i in range(6)]
        table["accuracy"] = [0.97] + [0.90 + 0.001 * i for i in range(6)]
        plot_accuracy_cost(table, ax)
        ax.figure.draw_without_rendering()
        # Of the text alone: an annotation's own extent has its line to the point in it.
        boxes = [Text.get_window_extent(text) for text in ax.texts]
        assert len(boxes) == 6
        covered = [a for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        assert covered == []

    def test_axes_are_in_percent(self, ax: Axes) -> None:
        plot_accuracy_cost(cost_table(), ax)
        assert {"0%", "100%", "90%"} <= set(texts(ax))


class TestClassChange:
    @pytest.mark.parametrize("count", [10, 100])
    def test_every_class_has_a_point_and_an_interval(self, ax: Axes, count: int) -> None:
        table = class_table(count)
        plot_class_change(table, ax)
        by_label = {line.get_label(): line for line in ax.lines}
        named = count <= NAMED_CLASSES
        change = {key: (line.get_xdata() if named else line.get_ydata()) for key, line in by_label.items()}
        significant = table["p_adjusted"] <= 0.05
        np.testing.assert_allclose(
            sorted(change["beyond chance (adjusted p ≤ 0.05)"]), sorted(table["delta"][significant])
        )
        np.testing.assert_allclose(sorted(change["not beyond chance"]), sorted(table["delta"][~significant]))
        assert change["mean over classes"][0] == pytest.approx(-0.075)
        ends = [path.vertices[:, 0 if named else 1] for c in ax.collections for path in c.get_paths()]
        np.testing.assert_allclose(
            sorted(map(tuple, ends)), sorted(zip(table["delta_low"], table["delta_high"], strict=True))
        )

    def test_few_classes_have_named_rows_in_the_order_of_the_table_from_the_top(self, ax: Axes) -> None:
        plot_class_change(class_table(4), ax)
        assert [t.get_text() for t in ax.get_yticklabels()] == [f"class {i}" for i in range(4)]
        bottom, top = ax.get_ylim()
        assert bottom > top

    def test_many_classes_are_sorted_and_the_largest_losses_named(self, ax: Axes) -> None:
        plot_class_change(class_table(100), ax)
        line = next(line for line in ax.lines if str(line.get_label()).startswith("beyond"))
        assert line.get_xdata()[0] == 0
        assert (np.diff(line.get_ydata()) > 0).all()
        assert ax.texts[0].get_text().splitlines() == [
            "largest losses",
            "class 99  −20",
            "class 98  −19.7",
            "class 97  −19.5",
        ]

    def test_gains_only_name_no_losses(self, ax: Axes) -> None:
        table = class_table(40)
        table["delta"] = table["delta"].abs() + 0.01
        plot_class_change(table, ax)
        assert len(ax.texts) == 0

    def test_unknown_p_values_count_as_not_beyond_chance(self, ax: Axes) -> None:
        table = class_table(6)
        table.loc[1:, "p_adjusted"] = np.nan
        plot_class_change(table, ax)
        sizes = {line.get_label(): len(line.get_xdata()) for line in ax.lines}
        assert sizes["not beyond chance"] + sizes["beyond chance (adjusted p ≤ 0.05)"] == 6
        assert sizes["not beyond chance"] >= 5

    def test_where_nothing_was_tested_points_say_nothing_of_chance(self, ax: Axes) -> None:
        missing = dict.fromkeys(("p_adjusted", "delta_low", "delta_high"), np.nan)
        plot_class_change(class_table(6).assign(**missing), ax)
        assert [len(line.get_xdata()) for line in ax.lines].count(6) == 1
        assert "not beyond chance" not in ax.get_legend_handles_labels()[1]


class TestPies:
    def test_bars_are_stacked_and_add_up(self, ax: Axes) -> None:
        plot_pies(pie_table(), ax)
        bars = sorted(
            (round(b.get_y(), 2), b.get_x(), b.get_width(), to_hex(b.get_facecolor())) for b in ax.patches
        )
        first = [bar[1:] for bar in bars if bar[0] == bars[0][0] and bar[2] > 0]
        colour = {kind: value.lower() for kind, value in KIND_COLOURS.items()}
        assert first == [
            (0, 20, colour["forgotten"]),
            (20, 5, colour["still wrong"]),
            (25, 1, colour["gained"]),
        ]
        last = [bar[1:] for bar in bars if bar[0] == bars[-1][0] and bar[2] > 0]
        assert last == [(0, 7, colour["label unknown"])]

    def test_seed_noise_has_a_marker_and_its_interval(self, ax: Axes) -> None:
        plot_pies(pie_table(), ax)
        marker = next(line for line in ax.lines if line.get_label() == "seed noise, with its interval")
        np.testing.assert_allclose(marker.get_xdata(), [6, 6, np.nan])
        spans = [tuple(path.vertices[:, 0]) for c in ax.collections for path in c.get_paths()]
        assert spans[:2] == [(3, 9), (3, 12)]

    def test_counts_and_shares_are_written_at_the_ends(self, ax: Axes) -> None:
        plot_pies(pie_table(), ax)
        assert [t.get_text() for t in ax.texts] == ["26 (26.0%)", "10 (10.0%)", "7"]
        # Beyond the interval where that is longer than the bar.
        assert [t.xy[0] for t in ax.texts] == [26, 12, 7]

    def test_kinds_that_do_not_occur_are_not_in_the_legend(self, ax: Axes) -> None:
        plot_pies(pie_table().iloc[:2], ax)
        assert sorted(legend(ax)) == ["forgotten", "gained", "seed noise, with its interval", "still wrong"]

    def test_no_pies_at_all(self, ax: Axes) -> None:
        table = pie_table().iloc[:1].copy()
        table[[*KIND_COLOURS, "pies", "pie_share"]] = 0.0
        plot_pies(table, ax)
        assert [t.get_text() for t in ax.texts] == ["0 (0.0%)"]


class TestCka:
    def test_lines_keep_the_order_of_the_layers(self, ax: Axes) -> None:
        plot_cka(cka_table(), ax)
        assert [t for t in texts(ax) if t in ("stem", "layer1", "head")] == ["stem", "layer1", "head"]
        drawn = [list(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 3]
        assert [0.99, 0.95, 0.9] in drawn
        assert [0.98, 0.97, 0.96] in drawn
        assert drawn.count([0.8, 0.8, 0.8]) == 1

    def test_one_reference_for_all_or_one_each(self, ax: Axes) -> None:
        plot_cka(cka_table(), ax)
        assert legend(ax) == ["merge 0.5", "prune 0.9", "dense against another seed"]
        other = Figure().subplots()
        plot_cka(cka_table(references=(0.8, 0.7)), other)
        assert legend(other)[2:] == [
            "dense against another seed (merge 0.5)",
            "dense against another seed (prune 0.9)",
        ]

    def test_no_reference_no_line(self, ax: Axes) -> None:
        plot_cka(cka_table(references=(np.nan, np.nan)), ax)
        assert legend(ax) == ["merge 0.5", "prune 0.9"]


class TestCkaMap:
    def test_rows_are_dense_layers_from_below(self, ax: Axes) -> None:
        pairs = [("in", "in", 0.9), ("in", "out", 0.2), ("out", "in", 0.3), ("out", "out", 0.8)]
        plot_cka_map(pd.DataFrame(pairs, columns=["layer_dense", "layer_compressed", "value"]), ax)
        np.testing.assert_array_equal(ax.images[0].get_array(), [[0.9, 0.2], [0.3, 0.8]])
        assert ax.images[0].origin == "lower"
        assert [t.get_text() for t in ax.get_yticklabels()] == ["in", "out"]
        assert "dense" in ax.get_ylabel()


class TestEmbeddingMap:
    def test_pies_are_marked_by_kind_and_classes_named_where_they_lie(self, ax: Axes) -> None:
        rows = [(0, 0, "a", ""), (0.2, 0.4, "a", "gained"), (0.4, 0.2, "a", ""), (-1, 1, "$b", "gained")]
        table = pd.DataFrame(rows, columns=["x", "y", "class", "kind"])
        plot_embedding_map(table, ax)
        everything, marked = ax.collections
        np.testing.assert_array_equal(everything.get_offsets(), table[["x", "y"]])
        assert len(np.unique(everything.get_facecolors(), axis=0)) == 2
        np.testing.assert_array_equal(marked.get_offsets(), [[0.2, 0.4], [-1, 1]])
        assert legend(ax) == ["gained"]
        named = {t.get_text(): t.xy for t in ax.texts}
        assert named == {"a": (0.2, 0.2), r"\$b": (-1, 1)}
        assert ax.get_aspect() == 1

    def test_many_classes_are_not_named(self, ax: Axes) -> None:
        names = [f"class {i}" for i in range(26)]
        plot_embedding_map(pd.DataFrame({"x": 0.0, "y": 0.0, "class": names, "kind": ""}), ax)
        assert not ax.texts
        assert len(ax.collections) == 1


class TestMapPictures:
    @staticmethod
    def pixels(**values: list[float]) -> pd.DataFrame:
        place = {"row": [0, 0, 1, 1], "column": [0, 1, 0, 1]}
        return pd.DataFrame({"sample_id": "a", **place, **values})

    def test_an_image_per_column_and_a_scale_per_map(self, ax: Axes) -> None:
        image = [0.0, 0.5, 0.5, 1.0]
        first = self.pixels(image=image, dense=[1, 2, 3, -4], compressed=[0, 0, 0, 0], other_seed=[8] * 4)
        plot_map_pictures(pd.concat([first, first.assign(sample_id="b")]), ax)
        assert len(ax.images) == 8
        shown, dense, dead, other = ax.images[:4]
        np.testing.assert_array_equal(shown.get_array(), [[0, 0.5], [0.5, 1]])
        np.testing.assert_array_equal(dense.get_array(), [[1, 2], [3, -4]])
        limits = np.percentile([1, 2, 3, 4], 99), 1.0, 8.0
        assert [-m.get_clim()[0] for m in (dense, dead, other)] == pytest.approx(limits)
        assert [m.get_clim()[1] for m in (dense, dead, other)] == pytest.approx(limits)
        assert ax.get_xlim() == (0, 2)
        assert [t.get_text() for t in ax.get_yticklabels()] == [
            "image",
            "dense",
            "compressed",
            "another seed",
        ]

    def test_without_another_seed_its_place_is_empty(self, ax: Axes) -> None:
        plot_map_pictures(
            self.pixels(image=[0] * 4, dense=[1] * 4, compressed=[1] * 4, other_seed=[np.nan] * 4), ax
        )
        assert len(ax.images) == 3


def test_sparsity_is_constant_between_changes(ax: Axes) -> None:
    table = pd.DataFrame(
        {
            "condition": ["prune 0.9 start"] * 2 + ["prune 0.9 gradual"] * 3,
            "share": [0, 1, 0, 0.5, 1],
            "sparsity": [0.9, 0.9, 0, 0.7, 0.9],
        }
    )
    plot_sparsity(table, ax)
    assert legend(ax) == ["prune 0.9 start", "prune 0.9 gradual"]
    line = ax.lines[1]
    assert line.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(line.get_xydata(), [[0, 0], [0.5, 0.7], [1, 0.9]])


class TestStyle:
    @pytest.mark.parametrize("name", STRANGE)
    def test_names_are_shown_as_they_are(self, ax: Axes, name: str) -> None:
        """Were a name set as a formula, its text would be parsed, and some of these fail to parse."""
        plot_accuracy_cost(cost_table().replace("merge 0.5", name), ax)
        assert name in [text.strip() for text in texts(ax)]
        for plot, table in (
            (plot_class_change, class_table(3).replace("class 1", name)),
            (plot_pies, pie_table().replace("merge 0.5", name)),
            (plot_cka, cka_table().replace({"merge 0.5": name, "layer1": name})),
        ):
            panel = Figure(layout="constrained").subplots()
            plot(table, panel)
            panel.legend()
            assert name in [text.strip() for text in texts(panel)]
        assert name in [label.strip().replace(r"\$", "$") for label in legend(panel)]

    def test_dollars_are_drawn_as_dollars(self, ax: Axes) -> None:
        """Two dollar signs take the width of their letters; a formula would drop them."""
        figure = ax.figure
        escaped, letters = ax.text(0, 0, plain("$mm$")), ax.text(0, 0, "mm", parse_math=False)
        figure.draw_without_rendering()
        dollars = ax.text(0, 0, "$$", parse_math=False)
        figure.draw_without_rendering()
        width = [t.get_window_extent().width for t in (escaped, letters, dollars)]
        assert width[0] == pytest.approx(width[1] + width[2], rel=0.05)

    def test_long_names_are_cut(self) -> None:
        assert plain("a" * 30, limit=10) == "a" * 9 + "…"
        assert plain("a" * 10, limit=10) == "a" * 10

    def test_looks_follow_the_order_of_appearance_and_stay_distinct(self) -> None:
        names = [f"c{i}" for i in range(16)]
        found = looks([*names, *names])
        assert list(found) == names
        assert len(set(found.values())) == 16
        assert len({look.colour for look in list(found.values())[:8]}) == 8
        assert looks(names[:3])["c2"] == found["c2"]


def test_drawing_warns_of_nothing(ax: Axes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_accuracy_cost(cost_table().iloc[[2]].assign(accuracy_low=np.nan, accuracy_high=np.nan), ax)
        ax.figure.draw_without_rendering()


def test_populations_stand_beside_their_seed_noise(ax: Axes) -> None:
    table = pd.DataFrame(
        {
            "run": ["simclr", "simclr", "$b$"],
            "condition": ["merge 0.5", "prune 0.9", "merge 0.5"],
            "pie_share": [0.2, 0.1, 0.3],
            "null_share": [0.05, 0.05, 0.08],
            "null_low": [0.04, 0.04, 0.06],
            "null_high": [0.07, 0.07, 0.11],
        }
    )
    assert plot_across(table, ax) is ax
    drawn = {line.get_label(): line for line in ax.lines}
    np.testing.assert_array_equal(drawn["simclr"].get_xdata(), [0.2, 0.1])
    np.testing.assert_array_equal(np.round(drawn["simclr"].get_ydata()), [0, 1])
    np.testing.assert_array_equal(drawn[plain("$b$")].get_xdata(), [0.3])
    assert drawn[plain("$b$")].get_ydata()[0] > drawn["simclr"].get_ydata()[0]
    noise = [path.vertices[:, 0].tolist() for bars in ax.collections for path in bars.get_paths()]
    assert noise == [[0.04, 0.07], [0.04, 0.07], [0.06, 0.11]]
    assert {"merge 0.5", "prune 0.9"} <= set(texts(ax))
    assert legend(ax) == ["simclr", plain("$b$"), "seed noise (95%)"]
