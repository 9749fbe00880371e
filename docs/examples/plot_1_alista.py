"""
Train ALISTA and watch the error fall, layer by layer
=====================================================

An unrolled network is a classical iteration that stops after a few steps and whose parameters are trained for the
matrix. This example trains such a network and compares it with FISTA, a classical method that takes the same
measurements and does the same work in each iteration. The matrix is 100×200, and training takes about ten seconds.
"""

# %%
# The problem
# -----------
#
# A problem is a measurement matrix A and the distribution of its signals: the probability ``pnz`` that an entry is
# non-zero, the distribution of the non-zero entries (standard normal by default), and the noise (none here).

import matplotlib.pyplot as plt
import numpy as np

import cuista

A = cuista.normalize_columns(cuista.random_matrix(100, 200, seed=1))
problem = cuista.Problem(A, pnz=0.06)

x, y = problem.sample(1000)  # 1000 signals in rows, and their measurements
print(f"x {x.shape}, y {y.shape}, {np.count_nonzero(x) / len(x):.1f} non-zero entries on average")

# %%
# The weight, and the network
# ---------------------------
#
# ALISTA computes its weight W from A alone. Each column of W correlates as little as possible with the other columns of
# A. Only a step size and a threshold for each layer remain to be learned: 20 numbers for 10 layers.

weight = cuista.solve_exact(problem.A)
report = weight.report
print(f"coherence of A {report.matrix_coherence:.3f}, of its weight {report.coherence:.3f}")

model = cuista.Model.new(problem, weight, layers=10)
cuista.train(model, cuista.FastRecipe(batch=64, validation_batch=1000, max_steps=300))

# %%
# FISTA for comparison
# --------------------
#
# Here is FISTA in a few lines of NumPy. Its regularisation weight λ is the one of sixteen values that gives the
# smallest error after the last iteration. The error is measured on the test signals themselves, which favours FISTA a
# little.


def soft(z, threshold):
    """Move every entry towards zero by the threshold."""
    return np.sign(z) * np.maximum(np.abs(z) - threshold, 0)


def nmse_db(estimate):
    """The squared error of all signals together, relative to their energy, in dB."""
    return 10 * np.log10(np.sum((estimate - x) ** 2) / np.sum(x**2))


def fista(lam, iterations):
    """The NMSE after every iteration."""
    step = 1 / np.linalg.norm(A, 2) ** 2
    estimate, ahead, momentum = np.zeros_like(x), np.zeros_like(x), 1.0
    errors = [0.0]
    for _ in range(iterations):
        before = estimate
        estimate = soft(ahead + step * (y - ahead @ A.T) @ A, step * lam)
        momentum, last = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = estimate + (last - 1) / momentum * (estimate - before)
        errors.append(nmse_db(estimate))
    return errors


runs = [fista(lam, 10) for lam in np.geomspace(1e-3, 1, 16)]
errors = min(runs, key=lambda errors: errors[-1])

# %%
# The error by layer
# ------------------
#
# ``evaluate`` reports the NMSE of every layer's output. Layer 0 is the estimate 0, whose NMSE is 0 dB.

report = cuista.evaluate(model, x, y)

fig, ax = plt.subplots(figsize=(6.4, 4))
ax.plot(errors, "s--", color="tab:gray", label="FISTA, best λ")
ax.plot(report.nmse_db, "o-", color="tab:red", label="ALISTA")
ax.set(xlabel="layer or iteration", ylabel="NMSE (dB)", title="1000 fresh signals, no noise")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()

# %%
# One signal
# ----------
#
# ``recover`` takes measurements with one sample per row, and returns the last layer's output.

estimate = model.recover(y[:1])

fig, ax = plt.subplots(figsize=(6.4, 3))
for values, marker, colour, label in [
    (x[0], "o", "tab:gray", "true signal"),
    (estimate[0], "x", "tab:red", "recovered"),
]:
    (support,) = np.nonzero(values)
    ax.stem(support, values[support], linefmt=colour, markerfmt=marker, basefmt=" ", label=label)
ax.axhline(0, color="black", linewidth=0.8)
ax.set(xlabel="entry", ylabel="value", xlim=(0, problem.N))
ax.legend()
fig.tight_layout()
