"""
Noise, and the ridge that answers it
====================================

The weight W of ALISTA is as incoherent with A as possible. But W also multiplies the noise in the measurements, so with
noise this is no longer the best choice. A *ridge* λ makes W smaller: W then minimises ‖WᵀA‖² + λ‖W‖² instead of ‖WᵀA‖²
alone. This example trains the same network with several ridges at 20 dB SNR. The matrix is 60×120.
"""

# %%
# Several ridges
# --------------
#
# The signal-to-noise ratio (SNR) is given in dB, for each measurement vector.

import matplotlib.pyplot as plt

import cuista

A = cuista.normalize_columns(cuista.random_matrix(60, 120, seed=2))
problem = cuista.Problem(A, pnz=0.06, snr_db=20)
x, y = problem.sample(4000)

recipe = cuista.FastRecipe(batch=64, validation_batch=1000, layer_steps=10, max_steps=100)
ridges = [0.0, 0.1, 0.4, 1.0, 3.0, 10.0]
reached = []
for ridge in ridges:
    model = cuista.Model.new(problem, cuista.solve_exact(problem.A, ridge=ridge), layers=8)
    cuista.train(model, recipe)
    reached.append(cuista.evaluate(model, x, y).nmse_db[-1])
    print(f"ridge {ridge:4g}: {reached[-1]:.2f} dB")

# %%
# The ridge that is chosen for you
# --------------------------------
#
# ``choose_ridge`` tries the same six values in even shorter training runs. The command line does so by default if a
# problem is noisy (``--ridge auto``).

chosen = cuista.choose_ridge(problem, layers=8)
print(f"choose_ridge took {chosen.report.ridge:g}")

fig, ax = plt.subplots(figsize=(6.4, 3.6))
ax.plot(range(len(ridges)), reached, "o-", color="tab:red")
ax.axvline(ridges.index(chosen.report.ridge), color="tab:gray", linestyle=":", label="what choose_ridge took")
ax.set_xticks(range(len(ridges)), [f"{ridge:g}" for ridge in ridges])
ax.set(xlabel="ridge λ", ylabel="NMSE after 8 layers (dB)", title="20 dB SNR")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()
