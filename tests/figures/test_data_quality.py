"""Shares of variance: of tables whose parts are known, and the rows of C44 on records with such tables."""

import numpy as np
import pytest

from figures.figure import Records
from figures.gallery import data_quality as figure
from tests.figures.synthetic import filled, skeleton


def records(by_set: np.ndarray, by_algorithm: np.ndarray) -> Records:
    """Scores of a set and an algorithm: ½ and the sum of what either adds."""
    found = {}
    for key, record in skeleton(figure.FIGURE).items():
        score = 0.5
        if key.startswith("sets/"):
            _, data, algorithm = key.split("/")
            score += by_set[list(figure.SETS).index(data)] + by_algorithm[figure.ALGORITHMS.index(algorithm)]
        found[key] = filled(record, {"score": float(score)}, 1e-3)
    return found


def test_a_table_of_known_parts() -> None:
    rows, columns = np.array([[-2.0], [0.0], [2.0]]), np.array([[-1.0, 1.0]])
    corner = np.array([[1.0, -1.0], [0.0, 0.0], [-1.0, 1.0]])  # neither a row's nor a column's
    # Sums of squares over the six cells: 2·8, 3·2 and 4.
    assert figure.explained(rows + columns + corner) == pytest.approx((16 / 26, 6 / 26, 4 / 26))


def test_pseudo_values_are_those_of_the_definition() -> None:
    values = np.random.default_rng(0).normal(size=(6, 3, 2))

    def effect(some: np.ndarray) -> float:
        data, algorithm, _ = figure.explained(some.mean(0))
        return data - algorithm

    expected = [6 * effect(values) - 5 * effect(np.delete(values, i, 0)) for i in range(6)]
    np.testing.assert_allclose(figure.jackknife(values), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("data", "algorithm", "state"), [(0.2, 0.05, "supported"), (0.05, 0.2, "opposite")])
def test_what_explains_more_is_said(data: float, algorithm: float, state: str) -> None:
    found = figure.verdicts(records(data * np.linspace(-1, 1, 5), algorithm * np.linspace(-1, 1, 3)))
    # Variances: data²·½ over five sets; algorithm²·2/3 over three algorithms, and over the first two of them 1/4.
    for row in (row for row in found if row.id == "C44"):
        other = algorithm**2 * (2 / 3 if row.part == "three algorithms" else 1 / 4)
        share = data**2 / 2 / (data**2 / 2 + other)
        assert row.effect == pytest.approx(2 * share - 1, abs=0.01) and row.verdict == state


def test_what_cells_in_any_order_explain_as_well_is_chance() -> None:
    """Rows or columns that differ are beyond chance; cells that depend on neither are not, although five rows explain
    (5 − 2)/9 more than two columns on average. The orders are drawn by a fixed seed: their mean is within 4 of its
    errors, of a number in [−1, 1]."""
    rows, columns = np.linspace(0.0, 1.0, 5)[:, None], np.array([0.0, 0.05])
    assert figure.beyond_chance(rows + columns).open
    assert figure.beyond_chance(0.05 * rows + 20 * columns).open
    found = figure.beyond_chance(np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.4], [0.6, 0.5], [0.7, 0.35]]))
    assert not found.open
    average = float(found.why.split("explain ")[1].split()[0])
    assert abs(average - 3 / 9) < 4 / np.sqrt(4000) + 0.005
