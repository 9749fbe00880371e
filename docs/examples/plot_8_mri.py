"""
MRI: a picture from a third of its Fourier coefficients
=======================================================

A scanner measures Fourier coefficients, along lines through the centre of the frequency plane, and every line takes
time. With fewer coefficients than pixels, the picture is not determined, unless it is sparse in some basis, such
as wavelets (Lustig, Donoho, Pauly, Magn. Reson. Med. 2007). Here, nothing is a matrix: an *operator* transforms, and
ALISTA's weight is never formed, as :doc:`the guide </guide/operators>` explains. Training and the rest take less than
half a minute.

The slices are drawn at random, as ellipses in an ellipse, because data of patients are not part of this package.
"""

# %%
# What is measured
# ----------------

import matplotlib.pyplot as plt
import numpy as np

import cuista
from cuista.operators import Composition, Fourier, Wavelet, radial_mask
from cuista.solvers import Fista

shape = (64, 64)
mask = radial_mask(shape, 0.33)
operator = Composition(Fourier(shape, mask, dtype="float32"), Wavelet(shape, "haar", 3, dtype="float32"))
print(f"{operator.M} of {operator.N} coefficients are measured")


def slices(count, seed):
    """Random slices of a head, with values from 0 to 1."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    pictures = np.zeros((count, *shape))
    for picture in pictures:
        for number in range(12):
            head = number < 2  # the skull, and the brain inside
            radii = np.array([0.9, 0.72]) - 0.08 * number if head else generator.uniform(0.06, 0.3, 2)
            centre = np.zeros(2) if head else generator.uniform(-0.4, 0.4, 2)
            angle = 0 if head else generator.uniform(0, np.pi)
            r, c = rows - centre[0], columns - centre[1]
            u, v = np.cos(angle) * r + np.sin(angle) * c, np.cos(angle) * c - np.sin(angle) * r
            inside = (u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1
            picture[inside] = (0.9, 0.35)[number] if head else picture[inside] + generator.uniform(-0.25, 0.25)
    return np.clip(pictures, 0, 1)


# %%
# Codes of pictures
# -----------------
#
# Networks recover codes, which are the coefficients of a picture in the basis. On the command line, ``cuista train
# --operator mri.json --signals FOLDER`` converts pictures; here, the adjoint of the basis does.

problem = cuista.Problem(operator)
basis = problem.basis


def codes_of(pictures):
    """The coefficients (samples, N) of pictures (samples, 64, 64)."""
    return basis.adjoint(pictures).reshape(len(pictures), -1).astype(np.float32)


training = cuista.SignalSet(codes_of(slices(600, seed=1)))
problem = problem.fitted(training)
print(problem)

# %%
# ALISTA
# ------
#
# Each of the ten subbands of the wavelets has its own threshold and step size in each of 10 layers.

model = cuista.Model.new(problem, layers=10)
recipe = cuista.FastRecipe(batch=8, validation_batch=40, layer_steps=6, max_steps=40, hard=0)
cuista.train(model, recipe, data=training)
print(model)

# %%
# FISTA, tuned, and to its end
# ----------------------------
#
# FISTA minimises ½‖y − A x‖² + λ‖x‖₁ with the same transforms. Its λ is the one of four with the least error on other
# slices. After 120 iterations the error hardly changes any more; a smaller λ ends at about the same, but takes longer.


def psnr_db(pictures, truth):
    """The mean peak signal-to-noise ratio of pictures."""
    return float(np.mean(-10 * np.log10(np.mean((pictures - truth) ** 2, axis=(1, 2)))))


def measured(pictures):
    """Measurements (samples, M)."""
    return operator.apply(codes_of(pictures).reshape(-1, *shape))


def fista(pictures, lam):
    """The pictures after every tenth iteration."""
    solver = Fista(problem, 120, lam=lam)
    iterates = list(solver.iterates(measured(pictures)))[9::10]
    return [problem.signals_of(x) for x in iterates]


truth, others = slices(8, seed=2), slices(4, seed=3)
best = max(np.geomspace(3e-3, 0.03, 4), key=lambda lam: psnr_db(fista(others, lam)[-1], others))
by_iteration = fista(truth, best)
by_layer = [problem.signals_of(x) for x in model.iterates(measured(truth))]
found = {
    "zero-filled": basis.apply(operator.adjoint(measured(truth)).astype(basis.dtype)),
    f"FISTA, λ = {best:.2g}, 120 iterations": by_iteration[-1],
    "ALISTA, 10 layers": by_layer[-1],
}
for name, pictures in found.items():
    print(f"{name:34} {psnr_db(pictures, truth):5.2f} dB")

# %%
# Errors by work
# --------------
#
# A layer and an iteration each apply A and its adjoint once.

fig, ax = plt.subplots(figsize=(6.4, 4))
ax.plot(range(10, 121, 10), [psnr_db(pictures, truth) for pictures in by_iteration], label="FISTA")
ax.plot(range(1, 11), [psnr_db(pictures, truth) for pictures in by_layer], "o-", color="tab:red", label="ALISTA")
ax.axhline(psnr_db(found["zero-filled"], truth), color="tab:gray", linestyle=":", label="zero-filled")
ax.set(xlabel="layer or iteration", ylabel="PSNR (dB)", xscale="log")
ax.grid(alpha=0.3)
ax.legend()
fig.tight_layout()

# %%
# One slice
# ---------

shown = {"the mask": np.fft.fftshift(mask.sampled), "true": truth[0], **{name: each[0] for name, each in found.items()}}

fig, axes = plt.subplots(1, len(shown), figsize=(11, 2.7))
for ax, (name, picture) in zip(axes, shown.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set_title(name.replace(", ", "\n", 1), fontsize=9)
    ax.axis("off")
fig.tight_layout()
