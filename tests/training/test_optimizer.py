from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from training.optimizer import Lamb, LossScale, Schedule, clip_by_global_norm

pytestmark = pytest.mark.slow


def numpy_lamb(
    weights: list[np.ndarray], gradients: list[list[np.ndarray]], rates: list[float], decay: float
) -> list[np.ndarray]:
    """Algorithm 2 of arXiv 1904.00962, loop by loop."""
    results = []
    for index, start in enumerate(weights):
        weight = start.copy()
        m, v = np.zeros_like(weight), np.zeros_like(weight)
        for step, rate in enumerate(rates, start=1):
            g = gradients[step - 1][index]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)
            if weight.ndim > 1:
                update = update + decay * weight
                weight_norm, update_norm = np.linalg.norm(weight), np.linalg.norm(update)
                update = update * (weight_norm / update_norm if weight_norm > 0 and update_norm > 0 else 1.0)
            weight -= rate * update
        results.append(weight)
    return results


def test_lamb_is_algorithm_2_with_vectors_left_out() -> None:
    rng = np.random.default_rng(0)
    start = [rng.normal(size=(4, 3)), rng.normal(size=5), np.zeros((2, 2))]
    gradients = [[rng.normal(size=w.shape) for w in start] for _ in range(5)]
    gradients[2][0][:] = 0
    rates = [0.1, 0.2, 0.3, 0.2, 0.1]
    variables = [tf.Variable(w) for w in start]
    optimizer = Lamb(variables, weight_decay=0.05)
    for rate, gradient in zip(rates, gradients, strict=True):
        optimizer.update(
            tf.distribute.get_strategy(), [tf.constant(g) for g in gradient], tf.constant(rate, tf.float64)
        )
    for variable, expected in zip(variables, numpy_lamb(start, gradients, rates, 0.05), strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-12)


def test_clipping_bounds_the_global_norm_and_reports_it() -> None:
    gradients = [tf.constant([3.0, 0.0]), tf.constant([[4.0]])]
    clipped, norm = clip_by_global_norm(gradients, 1.0)
    assert float(norm) == pytest.approx(5.0)
    np.testing.assert_allclose(clipped[0], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped[1], [[0.8]], rtol=1e-6)
    untouched, _ = clip_by_global_norm(gradients, 6.0)
    np.testing.assert_allclose(untouched[1], [[4.0]], rtol=1e-6)


@pytest.mark.parametrize(("sequences", "rate"), [(0, 0.0), (50, 1.0), (100, 2.0), (550, 1.0), (1000, 0.0), (1200, 0.0)])
def test_the_schedule_warms_up_and_decays_to_zero(sequences: int, rate: float) -> None:
    schedule = Schedule(peak=2.0, warmup_sequences=100, total_sequences=1000)
    assert float(schedule.learning_rate(tf.constant(float(sequences)))) == pytest.approx(rate)


def test_a_schedule_without_warmup_starts_at_its_peak() -> None:
    assert float(Schedule(2.0, 0, 10).learning_rate(tf.constant(0.0))) == pytest.approx(2.0)


def test_a_power_bends_the_decay_only() -> None:
    schedule = Schedule(peak=2.0, warmup_sequences=100, total_sequences=1100, power=2.0)
    rates = [float(schedule.learning_rate(tf.constant(float(seen)))) for seen in (50, 100, 600, 1100)]
    assert rates == pytest.approx([1.0, 2.0, 0.5, 0.0])


def test_an_overflow_changes_no_weight_and_halves_the_loss_scale() -> None:
    weight, scale = tf.Variable([[1.0, 2.0]]), LossScale()
    optimizer = Lamb([weight])
    strategy, rate = tf.distribute.get_strategy(), tf.constant(0.1)
    for gradient, changes in (([[1.0, 1.0]], True), ([[np.inf, 1.0]], False), ([[1.0, -1.0]], True)):
        before = weight.numpy(), optimizer.means[0].numpy(), optimizer.squares[0].numpy(), int(optimizer.updates)
        finite = tf.math.is_finite(tf.norm(tf.constant(gradient)))
        optimizer.update(strategy, [tf.constant(gradient)], rate, finite)
        scale.update(finite)
        after = weight.numpy(), optimizer.means[0].numpy(), optimizer.squares[0].numpy(), int(optimizer.updates)
        assert [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [changes] * 4
    assert (float(scale.value), int(scale.good_steps)) == (LossScale.INITIAL / 2, 1)


def test_the_loss_scale_doubles_after_many_good_steps_up_to_its_bound() -> None:
    scale = LossScale()
    for start, doubled in ((LossScale.INITIAL, LossScale.INITIAL * 2), (LossScale.LARGEST, LossScale.LARGEST)):
        scale.value.assign(start)
        scale.good_steps.assign(LossScale.STEPS_TO_DOUBLE - 1)
        scale.update(tf.constant(True))  # noqa: FBT003 - a tensor, not a flag
        assert (float(scale.value), int(scale.good_steps)) == (doubled, 0)
