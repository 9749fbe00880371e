"""Compressive sensing of pictures at several rates into results/sensing.json.

    python benchmarks/sensing.py patches.h5 dictionary.h5 test.h5 [RATE …]

patches.h5 and dictionary.h5 are made from the first 400 pictures of the Berkeley segmentation data set for training and
the last 32 for validation, and test.h5 from twelve other pictures:

    cuista prepare-images bsd432 --split 400,32,0 --patches 16 --per-image 500 -o patches.h5
    cuista learn-dict patches.h5 --atoms 512 -o dictionary.h5
    cuista prepare-images set12 --split 0,0,12 -o test.h5

All options have their defaults. The number of measurements includes the one of a block's mean.
"""

from __future__ import annotations

import sys
from typing import Any

from common import save

import cuista
from cuista.data.sensing import Sensing, random_sensing
from cuista.tasks.sensing import evaluate_reconstructors

NETWORKS = (("alista", False), ("lista-cpss", True))
RATES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)

patches, dictionary_file, test, *chosen = sys.argv[1:]
dictionary, rates = cuista.Dictionary.load(dictionary_file), tuple(map(float, chosen)) or RATES
figures: dict[str, Any] = {"work": "cuista train --task cs, all defaults, blocks of 16x16, 512 atoms", "rates": {}}
for rate in rates:
    rows, columns = dictionary.shape
    sensing = Sensing(random_sensing(dictionary.shape, round(rate * rows * columns)), dictionary)
    task, models = cuista.CompressiveSensing(patches), {}
    weight = cuista.sensing_weight(sensing, task)
    for net, untied in NETWORKS:
        model = cuista.Reconstructor.new(sensing, weight, net, untied=untied)
        models[f"{net}:untied" if untied else net] = cuista.train(model, task=task)
    report = evaluate_reconstructors(models, test, baselines=cuista.PatchSet(patches, "validation"))
    figures["rates"][str(rate)] = {
        "measurements": sensing.M,
        "psnr_db": dict(zip(report.methods, report.psnr_db.mean(axis=0).round(2).tolist(), strict=True)),
        "ssim": dict(zip(report.methods, report.ssim.mean(axis=0).round(3).tolist(), strict=True)),
        "parameters": {name: sum(p.size for p in m.network.parameters.values()) for name, m in models.items()},
        "validation_nmse_db": {name: round(m.training["validation_nmse_db"], 2) for name, m in models.items()},
    }
    print(rate, figures["rates"][str(rate)], flush=True)
save("sensing", figures)
