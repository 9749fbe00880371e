"""
A matrix that differs from the one trained for
==============================================

A network is trained for one matrix, and loses its accuracy if the measurements come from a matrix that differs even a
little. ALISTA can be moved to the new matrix without training: its step sizes and thresholds stay, and only the weight
is computed anew. The matrix here is 100×200.
"""

# %%
# A trained network
# -----------------

import matplotlib.pyplot as plt
import numpy as np

import cuista

A = cuista.normalize_columns(cuista.random_matrix(100, 200, seed=3))
problem = cuista.Problem(A, pnz=0.06)
model = cuista.Model.new(problem, cuista.solve_exact(problem.A), layers=8)
cuista.train(model, cuista.FastRecipe(batch=64, validation_batch=1000, max_steps=200))

# %%
# Perturbed matrices
# ------------------
#
# Independent Gaussian numbers with standard deviation σ are added to the entries of A, which are about 0.1 in
# size, and the columns are scaled back to unit norm.
#
# A :class:`cuista.RobustModel` pairs the network with an *encoder*, which computes a weight for each new matrix.
# Without a second argument, it is the exact encoder, which evaluates the closed form.

robust = cuista.RobustModel.new(model)
generator = np.random.default_rng(0)
x, _ = problem.sample(500)

sigmas = [0.0, 0.0025, 0.005, 0.01, 0.015, 0.02]
as_trained, moved = [], []
for sigma in sigmas:
    matrix = cuista.normalize_columns(A + sigma * generator.standard_normal(A.shape))
    y = (x @ matrix.T).astype(np.float32)
    as_trained.append(cuista.evaluate(model, x, y).nmse_db[-1])
    moved.append(cuista.evaluate(robust.model_for(matrix), x, y).nmse_db[-1])

# %%
# What it costs not to know the matrix
# ------------------------------------
#
# The measurements here have no noise. The upper curve shows how a network performs that works with the wrong matrix.

fig, ax = plt.subplots(figsize=(6.4, 4))
ax.plot(sigmas, as_trained, "s--", color="tab:gray", label="ALISTA as trained")
ax.plot(sigmas, moved, "o-", color="tab:red", label="the same with a weight for the new matrix")
ax.set(xlabel="σ of the perturbation", ylabel="NMSE (dB)")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()
