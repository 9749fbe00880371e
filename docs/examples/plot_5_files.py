"""
From measurements in a file to sparse codes
===========================================

Recovering signals from measurements in a file takes no Python: the command line makes the problem, trains the network
and recovers the signals. This example runs the commands one after the other and looks at the files that they write. The
matrix is 60×120.
"""

# %%
# The commands
# ------------
#
# The commands run in an empty folder, just as they would in a terminal.

import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np

import cuista

folder = Path(tempfile.mkdtemp())


def run(line):
    """Show a command, run it, and show its output."""
    print(f"$ {line}")
    words = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(words, cwd=folder, check=True, text=True, capture_output=True)
    said = (done.stderr + done.stdout).splitlines()
    print("\n".join(said if len(said) < 20 else [*said[:16], "…"]))


# %%
# Your own matrix is read from a .npy, .npz, .mat, .h5, .csv or .txt file. Here, a random matrix is saved to a file
# first.

np.save(folder / "A.npy", np.random.default_rng(1).standard_normal((60, 120)) / np.sqrt(60))
run("cuista gen-problem --load-a A.npy --pnz 0.06 --snr 20 -o problem.h5")

# %%
# Next, a network is trained for this problem. Because the problem is noisy, a ridge for the weight is searched for
# first.

run("cuista train problem.h5 -T 6 --max-steps 200 --validation-batch 1000 --device cpu -o model.h5")

# %%
# In practice, measurements come from your instrument. Here, ``simulate`` draws signals and measures them, so that the
# result can be compared with the true signals.

run("cuista simulate problem.h5 --samples 1000 -o signals.h5")
run("cuista recover model.h5 signals.h5 --device cpu -o x.npy")

# %%
# What the files hold
# -------------------
#
# ``cuista info`` shows what a model file contains.

run("cuista info model.h5")

# %%
# The codes are an ordinary NumPy array with one sample per row.

codes = np.load(folder / "x.npy")
with h5py.File(folder / "signals.h5") as file:
    truth = file["x"][:]
print(f"NMSE {10 * np.log10(np.sum((codes - truth) ** 2) / np.sum(truth**2)):.1f} dB")

fig, ax = plt.subplots(figsize=(4.2, 4.2))
ax.plot(truth.ravel(), codes.ravel(), ".", markersize=2, color="tab:red")
ax.set(xlabel="true entry", ylabel="recovered entry", aspect="equal")
ax.grid(alpha=0.3)
fig.tight_layout()

# %%
# The same model in Python
# ------------------------

model = cuista.load(folder / "model.h5")
assert np.allclose(model.recover(np.zeros((1, 60), np.float32)), 0)
