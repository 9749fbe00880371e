"""
Directions of arrival, with few snapshots
=========================================

A line of antennas receives plane waves from several directions. A wave from the angle θ reaches each antenna a little
later than the one before it, so that its phases across the array tell θ. *MUSIC*, the classical method, finds the
directions from the covariance of many snapshots. Sparse recovery finds them among a grid of directions, from a few
snapshots or a single one.

This example compares ALISTA, FISTA and MUSIC, and shows where ALISTA's advantage ends: on a grid that is too fine.
"""

# %%
# The array and the grid
# ----------------------
#
# The array has 16 antennas, half a wavelength apart, and the grid has 32 directions, uniform in sin θ. Column n of the
# steering matrix has the phases of a wave from direction n. Each direction has a source with a probability of 8 %,
# exactly on the grid, whose complex amplitude changes from snapshot to snapshot. The SNR is 10 dB.

import matplotlib.pyplot as plt
import numpy as np

import cuista

antennas, directions = 16, 32


def steering(sines):
    """The columns exp(iπ m sin θ) of unit norm."""
    return np.exp(1j * np.pi * np.outer(np.arange(antennas), sines)) / np.sqrt(antennas)


sines = (np.arange(directions) + 0.5) / directions * 2 - 1
A = steering(sines)
weight = cuista.solve_exact(A)
report = weight.report
print(f"coherence of A {report.matrix_coherence:.3f}, of its weight {report.coherence:.3f}")
print(f"entries of the weight differ from those of A by at most {np.abs(weight.W - A).max():.1g}")

# %%
# The weight equals A: the rows of this matrix are orthogonal and its columns have the same norm, and then ‖WᴴA‖ is
# least for A itself. So ALISTA cannot win here by its weight, only by the step sizes and thresholds that it learns.
#
# Three methods
# -------------
#
# A network is trained for each number of snapshots. FISTA makes 100 iterations, and its λ is the one of six with the
# smallest error on the test signals, which favours it. MUSIC is told the number of sources.


def trained(problem):
    """An ALISTA of 10 layers."""
    model = cuista.Model.new(problem, cuista.solve_exact(problem.A, ridge=0.1), layers=10)
    batch = 64 // problem.snapshots
    return cuista.train(model, cuista.FastRecipe(batch=batch, validation_batch=500, layer_steps=10, max_steps=100))


def scenes_of(problem):
    """Amplitudes x (scenes, snapshots, N) of scenes with at least one source, and their measurements y."""
    x, y = problem.sample(300)
    shape = (len(x), problem.snapshots, -1)  # one snapshot has no axis of its own
    x, y = x.reshape(shape), y.reshape(shape)
    some = (x != 0).any(axis=(1, 2))
    return x[some], y[some]


def fista(A, y, lam, iterations=100):
    """The minimum of ½‖Y − A X‖² + λ Σ‖x_n‖, with the norm over the snapshots of a direction; y is (samples, L, M)."""
    A, lam = A.astype(np.complex64), np.float32(lam)
    step = np.float32(1 / np.linalg.norm(A, 2) ** 2)
    estimate = ahead = np.zeros((*y.shape[:2], A.shape[1]), np.complex64)
    momentum = 1.0
    for _ in range(iterations):
        before = estimate
        z = ahead + step * (y - ahead @ A.T) @ A.conj()
        norms = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        estimate = z * np.maximum(1 - step * lam / norms, 0)
        momentum, last = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = estimate + np.float32((last - 1) / momentum) * (estimate - before)
    return estimate


def music(A, y, sources):
    """The spectrum 1 / ‖U_nᴴ a‖ of each sample (samples, N), where U_n spans what its strongest components leave."""
    spectra = []
    for snapshots, count in zip(y, sources, strict=True):
        U, _, _ = np.linalg.svd(snapshots.T)
        spectra.append(1 / np.linalg.norm(U[:, count:].conj().T @ A, axis=0).clip(1e-6))
    return np.array(spectra)


# %%
# How many scenes are found?
# --------------------------
#
# In a scene with k sources, each method names the k directions at which its spectrum is largest: the norms of the
# amplitudes for ALISTA and FISTA. A scene counts as found if all of them are right.


def nmse_db(estimate, x):
    """The squared error of all amplitudes together, relative to their energy, in dB."""
    return 10 * np.log10(np.sum(np.abs(estimate - x) ** 2) / np.sum(np.abs(x) ** 2))


def found(spectra, present):
    """The share of scenes in which the k largest values are at the k sources."""
    ranks = np.argsort(np.argsort(-spectra, axis=1), axis=1)
    return np.mean(np.all((ranks < present.sum(axis=1, keepdims=True)) == present, axis=1))


def compared(problem):
    """The scenes, the methods' spectra and errors, and the share of scenes that they find."""
    A, (x, y) = problem.A, scenes_of(problem)
    by_alista = trained(problem).recover(y if problem.snapshots > 1 else y[:, 0]).reshape(x.shape)
    tried = [fista(A, y, lam) for lam in np.geomspace(0.1, 2, 6)]
    by_fista = min(tried, key=lambda estimate: nmse_db(estimate, x))
    present = np.linalg.norm(x, axis=1) > 0
    spectra = {"ALISTA, 10 layers": np.linalg.norm(by_alista, axis=1)}
    spectra |= {"FISTA, 100 iterations": np.linalg.norm(by_fista, axis=1)}
    spectra |= {"MUSIC": music(A, y, present.sum(axis=1))}
    errors = {"ALISTA, 10 layers": nmse_db(by_alista, x), "FISTA, 100 iterations": nmse_db(by_fista, x)}
    rates = {name: found(spectrum, present) for name, spectrum in spectra.items()}
    return {"present": present, "spectra": spectra, "errors": errors, "rates": rates}


numbers = [1, 2, 4]
results = [compared(cuista.Problem(A, pnz=0.08, snr_db=10, snapshots=count)) for count in numbers]

# MUSIC alone goes on to more snapshots.
more, music_rates = [8, 16], [result["rates"]["MUSIC"] for result in results]
for count in more:
    x, y = scenes_of(cuista.Problem(A, pnz=0.08, snr_db=10, snapshots=count))
    present = np.linalg.norm(x, axis=1) > 0
    music_rates.append(found(music(A, y, present.sum(axis=1)), present))

styles = {"ALISTA, 10 layers": ("tab:red", "o-"), "FISTA, 100 iterations": ("tab:blue", "s--")}
styles |= {"MUSIC": ("tab:green", "^:")}
fig, axes = plt.subplots(1, 2, figsize=(8.4, 3.8))
for ax, what, label in [(axes[0], "rates", "scenes found"), (axes[1], "errors", "NMSE of the amplitudes (dB)")]:
    for name in results[0][what]:
        colour, style = styles[name]
        values = music_rates if name == "MUSIC" else [result[what][name] for result in results]
        ax.plot([*numbers, *more][: len(values)], values, style, color=colour, label=name)
    ticks = [*numbers, *more] if what == "rates" else numbers
    ax.set(xlabel="snapshots", ylabel=label, xscale="log", xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
    ax.grid(alpha=0.3)
axes[0].legend(fontsize=8)
fig.tight_layout()

# %%
# ALISTA finds about as many scenes as FISTA, with a tenth of the iterations, and its amplitudes are closer: FISTA
# shrinks all of them, whereas support selection lets ALISTA keep the largest. A single snapshot shows MUSIC no more
# than one direction, and it needs more snapshots than the others to find as much. It has no amplitudes.
#
# Three scenes
# ------------
#
# The spectra of scenes with three sources and two snapshots, each relative to its largest value. Grey bars are the true
# directions.

scenes = results[numbers.index(2)]
(chosen,) = np.nonzero(scenes["present"].sum(axis=1) == 3)

fig, axes = plt.subplots(1, 3, figsize=(9, 3.4), sharey=True)
for ax, scene in zip(axes, chosen[:3], strict=True):
    for name, spectra in scenes["spectra"].items():
        colour, style = styles[name]
        level = 20 * np.log10(np.maximum(spectra[scene] / spectra[scene].max(), 1e-3))
        ax.plot(sines, level, style[1:], color=colour, label=name)
    for direction in np.flatnonzero(scenes["present"][scene]):
        ax.axvline(sines[direction], color="black", alpha=0.3, linewidth=4)
    ax.set(xlabel="sin θ", ylim=(-45, 3))
axes[0].set_ylabel("level (dB)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=3, fontsize=8)
fig.tight_layout(rect=(0, 0, 1, 0.93))

# %%
# Where it ends
# -------------
#
# The same array and as many sources, with four snapshots, but a grid that is twice as fine. Neighbouring columns are so
# alike there that ten layers are not enough to tell them apart, and FISTA, with ten times the work, is better.

fine = steering((np.arange(2 * directions) + 0.5) / directions - 1)
on_fine = compared(cuista.Problem(fine, pnz=0.04, snr_db=10, snapshots=4))
for matrix, result in [(A, results[numbers.index(4)]), (fine, on_fine)]:
    print(f"{matrix.shape[1]} directions, coherence {np.abs(matrix[:, 0].conj() @ matrix[:, 1]):.2f}")
    for name, rate in result["rates"].items():
        error = f", NMSE {result['errors'][name]:6.1f} dB" if name in result["errors"] else ""
        print(f"    {name:22} finds {100 * rate:5.1f} % of the scenes{error}")
