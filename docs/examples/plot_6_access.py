"""
Massive access: who is transmitting, and through which channel?
===============================================================

Thousands of sensors share one radio channel. Most of them are silent; a few send a short sequence that is theirs
alone, their *pilot*, whenever they have something to say. A base station with several antennas hears the sum of all of
them. From it, the station must find out who is active, and the complex gain from each of them to each antenna. A pilot
has fewer samples than there are devices, so that ordinary least squares cannot tell.

This is sparse recovery of complex numbers with a shared support: a device that is active is heard by every antenna. The
antennas are the *snapshots* of :doc:`the guide </guide/complex>`. Training takes about ten seconds.
"""

# %%
# Pilots, devices and antennas
# ----------------------------
#
# Column n of the matrix A is the pilot of device n, whose samples are ±1 and ±i at random. A device is active with a
# probability of 10 %, its gains are Rayleigh fading (complex normal numbers), and the noise is 20 dB below the signals.

import matplotlib.pyplot as plt
import numpy as np

import cuista

samples, devices, antennas = 32, 128, 4
generator = np.random.default_rng(6)
pilots = 1j ** generator.integers(4, size=(samples, devices)) / np.sqrt(samples)

problem = cuista.Problem(pilots, pnz=0.1, snr_db=20, snapshots=antennas)
x, y = problem.sample(200)  # 200 slots
print(f"gains x {x.shape}, received y {y.shape}, {x.dtype}")

active = np.linalg.norm(x, axis=1) > 0
print(f"{active.sum(axis=1).mean():.1f} devices are active on average, and at most {active.sum(axis=1).max()}")

# %%
# ALISTA
# ------
#
# Nothing in the code says that the numbers are complex and that there are four antennas: the problem does. A layer
# compares the norm of each device's four gains with its threshold, and keeps their phases and ratios.

model = cuista.Model.new(problem, cuista.solve_exact(problem.A, ridge=0.1), layers=10)
cuista.train(model, cuista.FastRecipe(batch=32, validation_batch=500, layer_steps=15, max_steps=150))
estimates = {"ALISTA, 10 layers": model.recover(y)}

# %%
# FISTA, with as much work and with ten times as much
# ---------------------------------------------------
#
# A layer of ALISTA and an iteration of FISTA both multiply by a matrix twice. FISTA gets 10 iterations, and then 100.
# Each time, its regularisation weight λ is the one of six with the smallest error on the test signals themselves,
# which favours FISTA.


def soft(z, threshold):
    """Shrink the norm over the antennas by the threshold."""
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return z * np.maximum(1 - threshold / np.maximum(norms, 1e-12), 0)


def fista(lam, iterations):
    """The estimate after every iteration."""
    A = pilots.astype(np.complex64)
    step = np.float32(1 / np.linalg.norm(A, 2) ** 2)
    estimate, ahead, momentum = np.zeros_like(x), np.zeros_like(x), 1.0
    for _ in range(iterations):
        before = estimate
        estimate = soft(ahead + step * (y - ahead @ A.T) @ A.conj(), step * np.float32(lam))
        momentum, last = (1 + np.sqrt(1 + 4 * momentum**2)) / 2, momentum
        ahead = estimate + np.float32((last - 1) / momentum) * (estimate - before)
        yield estimate


def nmse_db(estimate):
    """The squared error of all gains together, relative to their energy, in dB."""
    return 10 * np.log10(np.sum(np.abs(estimate - x) ** 2) / np.sum(np.abs(x) ** 2))


curves = {"ALISTA, 10 layers": cuista.evaluate(model, x, y).nmse_db}
for iterations in (10, 100):
    runs = []
    for lam in np.geomspace(0.05, 2, 6):
        errors = [0.0]
        for estimate in fista(lam, iterations):
            errors.append(nmse_db(estimate))
        runs.append((errors[-1], errors, estimate))
    _, errors, estimate = min(runs, key=lambda run: run[0])
    curves[f"FISTA, {iterations} iterations"], estimates[f"FISTA, {iterations} iterations"] = errors, estimate

for name, errors in curves.items():
    print(f"{name:20} {errors[-1]:6.1f} dB")

# %%
# The error of the gains
# ----------------------

colours = dict(zip(curves, ("tab:red", "tab:gray", "tab:blue"), strict=True))

fig, ax = plt.subplots(figsize=(6.4, 4))
for name, errors in curves.items():
    ax.plot(range(1, len(errors)), errors[1:], "o-" if len(errors) < 20 else "-", color=colours[name], label=name)
ax.set(xlabel="layer or iteration", ylabel="NMSE (dB)", xscale="log", title=f"{len(x)} slots, {antennas} antennas")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()

# %%
# Who is active?
# --------------
#
# A device counts as active if the norm of its estimated gains exceeds a level. With a low level, silent devices raise
# false alarms; with a high one, active devices are missed, and first those whose gains happen to be small. The curves
# show both for all levels: the nearer to the lower left corner, the better.

fig, ax = plt.subplots(figsize=(6.4, 4))
for name, estimate in estimates.items():
    norms = np.linalg.norm(estimate, axis=1)
    levels = np.geomspace(0.02, 4, 200)
    missed = [np.mean(norms[active] <= level) for level in levels]
    alarms = [np.mean(norms[~active] > level) for level in levels]
    ax.plot(alarms, missed, color=colours[name], label=name)
    wrong = min(np.mean((norms > level) != active) for level in levels)
    print(f"{name:20} at its best level {100 * wrong:.2f} % of the devices are taken for the wrong kind")
ax.set(xlabel="false alarms (share of silent devices)", ylabel="missed (share of active devices)")
ax.set(xscale="log", yscale="log")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()

# %%
# With the same work, ALISTA is far better. But it is not better than FISTA in everything: after ten times as many
# iterations, FISTA tells active devices from silent ones a little better than ALISTA does, although its gains are
# worse. It estimates all of them too small, which does not change their order. ALISTA's curve ends early, because the
# last layer sets most estimates to exactly zero: an active device among them is missed at any level.
#
# One slot
# --------
#
# The norms of the gains of all devices, in the slot in which the most of them are active.

slot = int(active.sum(axis=1).argmax())
panels = {"true": x, **estimates}

fig, axes = plt.subplots(len(panels), figsize=(6.4, 6), sharex=True, sharey=True)
for ax, (name, gains) in zip(axes, panels.items(), strict=True):
    norms = np.linalg.norm(gains[slot], axis=0)
    colour = colours.get(name, "black")
    ax.vlines(range(devices), 0, norms, color=[colour if on else "tab:orange" for on in active[slot]])
    ax.set_ylabel(name.replace(", ", ",\n"), fontsize=8)
axes[0].set_title(f"{active[slot].sum()} active devices, {samples} samples; orange: not active", fontsize=10)
axes[-1].set(xlabel="device", xlim=(-1, devices))
fig.tight_layout()
