"""Draw the README's picture, the NMSE by layer, from the output of `cuista test --baselines --json`.

cuista quickstart && cuista test quickstart/model.h5 --baselines --json > test.json
pip install '.[plot]' && python benchmarks/figure.py test.json benchmarks/results/nmse.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

source, target = sys.argv[1:]
result = json.loads(Path(source).read_text())
figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
styles = {"ista": ("ISTA", "0.6", "--"), "fista": ("FISTA", "0.35", "-."), "alista": ("ALISTA", "C0", "-")}
for name, (label, color, line) in styles.items():
    rows = result["layers"][name]
    axes.plot(
        [row["layer"] for row in rows], [row["nmse_db"] for row in rows], line, color=color, label=label, marker="."
    )
axes.set(xlabel="layer or iteration", ylabel="NMSE (dB)", xlim=(0, len(rows) - 1))
axes.grid(alpha=0.3)
axes.legend(frameon=False)
figure.savefig(target, dpi=150)
