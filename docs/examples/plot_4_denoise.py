"""
Denoise a picture
=================

The convolutional networks write a picture as a sum of small filters, each correlated with a sparse map. Noise cannot be
written in this way, so it is left over. This example trains a network on synthetic pictures, which are so small and
simple that this takes about twenty seconds; :doc:`/results` gives results for photographs.
"""

# %%
# Pictures
# --------
#
# A folder of pictures becomes one file, split into pictures for training, validation and testing. The pictures here are
# generated: overlapping discs, some of them striped, in shades of grey.

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import cuista
from cuista.training import LearningRecipe

folder = Path(tempfile.mkdtemp())
cuista.datasets.save_pictures(folder / "pictures", 12)

images = folder / "images.h5"
prepared = cuista.prepare_images(folder / "pictures", images, split=(8, 2, 2))
print(prepared.counts)

# %%
# A dictionary of filters, learned from the pictures
# --------------------------------------------------
#
# Each step finds sparse maps for a few random crops with the current filters, and then changes the filters so that the
# maps explain the crops better.

recipe = LearningRecipe(lam=0.1, steps=80, batch=2, crop=48)
dictionary = cuista.learn_dictionary(cuista.ImageSet(images, "train", least=48), (5, 5), 24, recipe)
print(f"{dictionary.filters} filters of {dictionary.shape[0]}×{dictionary.shape[1]} pixels")

# %%
# Training
# --------
#
# The noise has a standard deviation of 20 on the scale of 0 to 255. Conv-LISTA-CP also learns its filters.

weight = cuista.solve_conv(dictionary, ridge=float(np.square(dictionary.D).sum()))
denoiser = cuista.Denoiser.new(weight, "conv-lista-cp", sigma=20)
recipe = cuista.Denoising.recipes["fast"](max_steps=40, matrix_steps=80)
cuista.train(denoiser, recipe, task=cuista.Denoising(images, crop=64))

# %%
# A picture it has not seen
# -------------------------

name, clean = next(cuista.ImageSet(images, "test").pictures())
noisy = clean + 20 / 255 * np.random.default_rng(0).standard_normal(clean.shape)
denoised = denoiser.denoise(noisy)


def psnr_db(estimate):
    """Peak signal-to-noise ratio: higher is better, and 6 dB more is half the error."""
    return -10 * np.log10(np.mean((estimate - clean) ** 2))


fig, axes = plt.subplots(1, 3, figsize=(9, 3.4))
for ax, image, title in zip(axes, (clean, noisy, denoised), ("clean", "noisy", "denoised"), strict=True):
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    ax.set_title(title if image is clean else f"{title}, {psnr_db(image):.1f} dB")
    ax.axis("off")
fig.tight_layout()
