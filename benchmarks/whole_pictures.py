"""Compressive sensing of whole pictures by Conv-CSC, at several rates, into results/sensing.json.

    python benchmarks/whole_pictures.py images.h5 test.h5 models [BLOCK:RATE …]

The pictures are those of sensing.py. Models are kept in the folder `models`, and a run that was interrupted goes on.
All options have their defaults. A model is trained in 15 to 30 minutes on one core.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common import RESULTS, of_size, save

import cuista
from cuista.data.sensing import Sensing, random_sensing
from cuista.tasks.sensing import evaluate_reconstructors

CHOSEN = ("16:0.1", "16:0.2", "16:0.25", "16:0.3", "16:0.4", "16:0.5", "16:0.6", "33:0.1", "33:0.25", "33:0.4")

images, test, folder, *chosen = sys.argv[1:]
path = RESULTS / "sensing.json"
for each in chosen or CHOSEN:
    side, rate = each.split(":")
    block = int(side), int(side)
    sensing = Sensing(random_sensing(block, round(float(rate) * block[0] * block[1])), block)
    model = cuista.PictureReconstructor.new(sensing)
    out = Path(folder) / f"{side}-{rate}.h5"
    cuista.train(model, task=cuista.PictureSensing(images), out=out, resume=True, progress=True)
    report = evaluate_reconstructors({"conv-csc": model}, test)
    figures = {
        "measurements": sensing.M,
        "psnr_db": round(float(report.psnr_db[:, -1].mean()), 2),
        "psnr_db_of_512x512": of_size(report, 512)["conv-csc"],
        "ssim": round(float(report.ssim[:, -1].mean()), 3),
        "parameters": sum(value.size for value in model.network.parameters.values()),
        "validation_psnr_db": round(model.training["validation_psnr_db"], 2),
    }
    results = json.loads(path.read_text())
    results.setdefault("conv-csc", {}).setdefault(f"{side}x{side}", {})[rate] = figures
    save("sensing", results)
