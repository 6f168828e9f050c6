"""Softmax regression on devices against scikit-learn in float64, and what must not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vssl_jax import parallel
from vssl_jax.errors import UserError
from vssl_jax.ops import softmax_regression
from vssl_jax.planning import hlo

# What the docs state: of the objective, relative; of probabilities, absolute.
OBJECTIVE, PROBABILITY = 3e-5, 3e-3


def draw(rows=300, dim=12, classes=5, *, apart=0.7, seed=0, shares=None, correlated=True):
  rng = np.random.default_rng(seed)
  y = rng.choice(classes, rows, p=shares)
  y[:classes] = np.arange(classes)
  x = apart * rng.standard_normal((classes, dim))[y] + rng.standard_normal((rows, dim))
  if correlated:  # variances over six orders of magnitude, in no particular directions
    x *= np.logspace(0, -3, dim)
    x = x @ np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    x /= x.std(axis=0)
  return x.astype(np.float32), y


def Rows(x, y, classes, devices=1):
  mesh = parallel.make_mesh(jax.devices()[:devices])
  return softmax_regression.Rows(x, y, classes=classes, mesh=mesh)


def with_constants():
  x, y = draw()
  x[:, 3], x[:, 7] = 1e6, 0.0
  return x, y


DATA = {
  "plain": lambda: draw(correlated=False),
  "correlated": draw,
  "overlapping": lambda: draw(apart=0.1),
  "separable": lambda: draw(apart=4.0, correlated=False),
  "two classes": lambda: draw(classes=2),
  "more features than rows": lambda: draw(rows=30, dim=50),
  "unbalanced": lambda: draw(rows=500, shares=[0.9, 0.05, 0.03, 0.01, 0.01]),
  "constant features": with_constants,
  "far from the origin": lambda: tuple(a + b for a, b in zip(draw(), (100, 0), strict=True)),
}


def oracle(x, y, strength, weight=None):
  model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=1000)
  return model.fit(x.astype(np.float64) - x.mean(axis=0), y, weight)


def objective(x, y, weights, bias, strength):
  z = x.astype(np.float64) @ weights + bias
  z -= z.max(axis=1, keepdims=True)
  loss = np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]
  return loss.sum() + np.square(weights).sum() / (2 * strength)


@pytest.mark.parametrize("sure", [1e-6, 1.1e-4, 3e-2, 0.4, 2.0])
def test_log_probabilities_near_zero_have_all_digits(sure):
  """Each row's largest probability is 1 / (1 + `sure`), up to one rounding of the logits."""
  rng = np.random.default_rng(0)
  z = np.log(sure / 4) * np.ones((64, 5)) + rng.normal(size=(64, 5)) / 10
  z[np.arange(64), rng.integers(5, size=64)] = 0
  z = z.astype(np.float32)
  want = z - np.logaddexp.reduce(z.astype(np.float64), axis=1, keepdims=True)
  found = jax.jit(softmax_regression.log_normalized)(z)
  np.testing.assert_allclose(found, want, rtol=5e-7)  # four roundings of 6e-8, exp and log


@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("name", DATA)
def test_equals_scikit_learn(name, strength):
  x, y = DATA[name]()
  rows = Rows(x, y, classes=int(y.max()) + 1)
  fit = rows.fit(strength)
  assert fit.converged, fit.gap
  want = oracle(x, y, strength)
  p = want.predict_proba(x.astype(np.float64) - x.mean(axis=0))
  found = rows.probabilities(fit, x)
  np.testing.assert_allclose(found, p, atol=PROBABILITY)
  np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
  at, near = p.argmax(axis=1), np.sort(p, axis=1)[:, -1] - np.sort(p, axis=1)[:, -2] < PROBABILITY
  assert ((found.argmax(axis=1) == at) | near).all()
  # The objective in float64, of weights for the features as they were given.
  own = strength / 2 if len(want.classes_) == 2 else strength
  weights, bias = want.coef_.T, want.intercept_
  if len(want.classes_) == 2:
    weights, bias = weights * [[-0.5, 0.5]], bias * [-0.5, 0.5]
  least = objective(x - x.mean(axis=0), y, weights, bias, own)
  got = objective(x, y, *rows.coefficients(fit), own)
  bound = 1e-6 if name == "separable" else OBJECTIVE  # no digits are lost where classes are sure
  assert -1e-7 * least < got - least < bound * least
  assert float(fit.loss) * len(y) == pytest.approx(got, rel=1e-6, abs=1e-7 * len(y))


def test_one_device_or_eight():
  x, y = draw(rows=301)  # does not divide
  one, eight = (Rows(x, y, classes=5, devices=n) for n in (1, 8))
  a, b = one.fit(1.0), eight.fit(1.0)
  np.testing.assert_allclose(one.probabilities(a, x), eight.probabilities(b, x), atol=1e-3)
  assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-6)
  np.testing.assert_allclose(one.log_likelihood(a), eight.log_likelihood(b), atol=2e-3)


def test_a_fold_is_a_fit_on_its_rows():
  x, y = draw()
  x = x - x.mean(axis=0)
  used = np.random.default_rng(1).random(len(x)) < 0.6
  used[y == 2] = False  # a class is missing in the fold
  rows = Rows(x, y, classes=5)
  fit = rows.fit(0.3, used=used)
  assert fit.converged
  want = oracle(x[used], y[used], 0.3)
  p = np.zeros((len(x), 5))
  p[:, want.classes_] = want.predict_proba(x.astype(np.float64) - x[used].mean(axis=0))
  np.testing.assert_allclose(rows.probabilities(fit, x), p, atol=PROBABILITY)
  with np.errstate(divide="ignore"):
    own = np.log(p[np.arange(len(x)), y])
  assert (np.isneginf(rows.log_likelihood(fit)) == (y == 2)).all()
  np.testing.assert_allclose(np.exp(rows.log_likelihood(fit)), np.exp(own), atol=PROBABILITY)


def test_two_classes_in_a_fold_have_the_penalty_of_scikit_learn():
  x, y = draw()
  used = y < 2
  rows = Rows(x, y, classes=5)
  want = oracle(x[used], y[used], 0.1).predict_proba(x - x[used].mean(axis=0))
  found = rows.probabilities(rows.fit(0.1, used=used), x)
  np.testing.assert_allclose(found[:, :2], want, atol=PROBABILITY)
  assert not found[:, 2:].any()


def test_a_weight_of_two_is_a_row_twice():
  x, y = draw()
  weight = np.random.default_rng(2).integers(0, 3, len(x)).astype(np.float32)
  rows = Rows(x, y, classes=5)
  found = rows.probabilities(rows.fit(1.0, used=weight), x)
  twice = np.repeat(np.arange(len(x)), weight.astype(int))
  copies = Rows(x[twice], y[twice], classes=5)
  np.testing.assert_allclose(found, copies.probabilities(copies.fit(1.0), x), atol=PROBABILITY)


def test_where_it_starts_does_not_matter():
  x, y = draw()
  rows = Rows(x, y, classes=5)
  cold = rows.fit(1.0)
  near = rows.fit(1.0, start=rows.fit(0.5))
  rng = np.random.default_rng(3)
  wild = cold._replace(
    weights=30 * rng.standard_normal((12, 5)).astype(np.float32),
    bias=30 * rng.standard_normal(5).astype(np.float32),
  )
  far = rows.fit(1.0, start=wild)
  assert near.iterations < cold.iterations
  for other in (near, far):
    assert other.converged
    p = rows.probabilities(other, x)
    np.testing.assert_allclose(p, rows.probabilities(cold, x), atol=PROBABILITY)
  assert rows.fit(1.0, start=cold).iterations <= 2


def test_a_start_without_a_class_that_the_rows_have():
  x, y = draw()
  rows = Rows(x, y, classes=5)
  found = rows.fit(1.0, start=rows.fit(0.1, used=y != 4))
  p = rows.probabilities(rows.fit(1.0), x)
  np.testing.assert_allclose(rows.probabilities(found, x), p, atol=PROBABILITY)


def test_what_is_unfinished_is_told():
  x, y = draw()
  rows = Rows(x, y, classes=5)
  early = rows.fit(100.0, max_iterations=3)
  assert int(early.iterations) == 3
  assert not early.converged
  # Below what float32 can tell it ends by itself.
  last = rows.fit(1.0, tolerance=0.0)
  assert not last.converged
  assert int(last.iterations) < softmax_regression.MAX_ITERATIONS
  assert float(last.gap) < 1e-8


def test_devices_exchange_gradients_alone():
  mesh = parallel.make_mesh()
  fit = lowered(mesh, rows=1024, dim=64, classes=10).compile()
  found = hlo.Program(fit.as_text()).collectives()
  assert {c.kind for c in found} == {"all-reduce"}
  assert max(c.bytes for c in found) <= 2 * 4 * (64 + 1) * 10


def lowered(mesh, rows, dim, classes):
  return softmax_regression.programs(mesh).fit.lower(
    *softmax_regression.abstract(mesh, rows, dim, classes)
  )


def test_bad_input_is_told():
  x, y = draw()
  with pytest.raises(UserError, match=r"must be \[N, F\] and \[N\]; got \(300, 12\), \(299,\)"):
    Rows(x, y[1:], classes=5)
  with pytest.raises(UserError, match="labels must be from 0 to 3; got 0 to 4"):
    Rows(x, y, classes=4)
  rows = Rows(x, y, classes=5)
  with pytest.raises(UserError, match="got C = 0 and 5 classes"):
    rows.fit(0)
  with pytest.raises(UserError, match="got C = 1 and 1 classes"):
    rows.fit(1, used=y == 0)


def test_the_gradient_vanishes_at_the_fit():
  """In float64, and by JAX's own derivative of the objective as it is written."""
  x, y = draw()
  rows = Rows(x, y, classes=5)
  weights, bias = rows.coefficients(rows.fit(0.5))
  with jax.enable_x64(True):
    z = jnp.asarray(x, jnp.float64)

    def loss(w, b):
      own = jax.nn.log_softmax(z @ w + b)[jnp.arange(len(y)), y]
      return -own.sum() + (w**2).sum()  # 1 / (2 · 0.5)

    norms = [
      float(sum((g**2).sum() for g in jax.grad(loss, (0, 1))(jnp.asarray(w), jnp.asarray(b))))
      for w, b in ((weights, bias), (np.zeros_like(weights), np.zeros_like(bias)))
    ]
  assert norms[0] < 1e-6 * norms[1]
