import numpy as np
import pytest
from scipy.optimize import minimize

from compressors.repair import ridge
from population.errors import InputError


def problem(n: int, d: int = 5, k: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x, old = rng.normal(1, 1, (n, d)), rng.normal(size=(k, d))
    return x, 2 + x @ rng.normal(size=(d, k)) + rng.normal(size=(n, k)), old


def reference(x, y, old, strength, intercept) -> tuple[np.ndarray, np.ndarray]:
    """One output at a time, with the penalty as further rows; strength is in units of mean moments."""
    cx, cy = (x - x.mean(0), y - y.mean(0)) if intercept else (x, y)
    penalty = strength * (cx**2).sum(0).mean()
    weights = []
    for o, target in zip(old, cy.T, strict=True):
        scale = (cx @ o) @ target / ((cx @ o) @ (cx @ o))
        rows = np.vstack([cx, np.sqrt(penalty) * np.eye(len(o))])
        wanted = np.append(target, np.sqrt(penalty) * scale * o)
        weights.append(np.linalg.lstsq(rows, wanted, rcond=None)[0])
    weight = np.array(weights)
    return weight, y.mean(0) - weight @ x.mean(0) if intercept else np.zeros(len(old))


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize(("n", "d"), [(60, 5), (12, 30), (12, 11)])
def test_fit_is_the_closed_form_around_the_scaled_old_weights(monkeypatch, n, d, intercept) -> None:
    monkeypatch.setattr(ridge, "_RIDGES", (0.1,))
    x, y, old = problem(n, d)
    fit = ridge.ridge_regression(x.copy(), y, old, held_out=4, has_intercept=intercept, added=None)
    weight, bias = reference(x, y, old, 0.1, intercept)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-8)
    np.testing.assert_allclose(fit.intercept, bias, rtol=1e-8, atol=1e-12)
    fitted = x @ weight.T + bias
    np.testing.assert_allclose(fit.mean, fitted.mean(0), rtol=1e-8)
    np.testing.assert_allclose(fit.variance, fitted.var(0), rtol=1e-8)


@pytest.mark.parametrize(("noise", "best"), [(0.01, 0), (3.0, 3), (30.0, 5)])
def test_ridge_is_the_one_of_least_error_on_the_last_rows(noise: float, best: int) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(150, 40)) * np.geomspace(1, 0.01, 40)
    y = x @ rng.normal(size=(40, 2)) * 3 + noise * rng.normal(size=(150, 2)) * np.arange(150)[:, None] / 150
    old = rng.normal(size=(2, 40))
    cx, cy = x - x.mean(0), y - y.mean(0)
    scale = ((cx @ old.T) * cy).sum(0) / ((cx @ old.T) ** 2).sum(0)
    prior = old.T * scale
    errors = []
    for strength in ridge._RIDGES:
        gram = cx[:100].T @ cx[:100]
        penalty = strength * np.trace(gram) / 40 * np.eye(40)
        weight = prior + np.linalg.solve(gram + penalty, cx[:100].T @ (cy - cx @ prior)[:100])
        errors.append(((cy - cx @ weight)[100:] ** 2).sum())
    assert np.argmin(errors) == best
    fit = ridge.ridge_regression(x.copy(), y, old, held_out=50, has_intercept=True, added=None)
    np.testing.assert_allclose(fit.weight, reference(x, y, old, ridge._RIDGES[best], True)[0], rtol=1e-6)


@pytest.mark.parametrize("intercept", [True, False])
def test_in_front_of_a_relu_steps_lead_to_the_least_loss(monkeypatch, intercept: bool) -> None:
    x, y, old = problem(80, 4, 1)
    added = np.random.default_rng(2).normal(-3, 1, (80, 1))
    centred = x - x.mean(0) if intercept else x
    start, bias = reference(x, y, old, 0.1, intercept)
    reach = centred @ old[0]
    cy = y[:, 0] - y.mean() if intercept else y[:, 0]
    pull = old[0] * (reach @ cy) / (reach @ reach)
    penalty = 0.1 * (centred**2).sum(0).mean()
    wanted = y[:, 0] + added[:, 0]

    def loss(parameters: np.ndarray) -> float:
        total = x @ parameters[:4] + (parameters[4] if intercept else 0) + added[:, 0]
        data = np.where(wanted > 0, total - wanted, np.maximum(total, 0))
        return float(data @ data + penalty * ((parameters[:4] - pull) ** 2).sum())

    def fitted(steps: int) -> np.ndarray:
        monkeypatch.setattr(ridge, "_RECTIFIED_STEPS", steps)
        fit = ridge.ridge_regression(x.copy(), y, old, held_out=4, has_intercept=intercept, added=added)
        return np.append(fit.weight[0], fit.intercept)

    monkeypatch.setattr(ridge, "_RIDGES", (0.1,))
    np.testing.assert_allclose(fitted(0), np.append(start[0], bias), rtol=1e-8, atol=1e-12)
    losses = [loss(fitted(steps)) for steps in (0, 1, 2, 3, 1000)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.99 * losses[0]
    least = minimize(loss, np.zeros(5), tol=1e-12, options={"maxiter": 1000})
    assert losses[-1] == pytest.approx(least.fun, rel=1e-5)


def test_outputs_that_are_constant_are_met_by_the_intercept() -> None:
    x, _, old = problem(30)
    fit = ridge.ridge_regression(x, np.full((30, 3), 7.0), old, held_out=6, has_intercept=True, added=None)
    np.testing.assert_allclose(fit.weight, 0, atol=1e-12)
    np.testing.assert_allclose(fit.intercept, 7)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x, y, old = problem(30)
    y[3, 1] = bad
    with pytest.raises(InputError, match="NaN or infinite"):
        ridge.ridge_regression(x, y, old, held_out=6, has_intercept=True, added=None)
