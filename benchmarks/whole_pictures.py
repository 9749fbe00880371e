"""Compressive sensing of whole pictures at several rates, by Conv-CSC or by a denoiser, into results/sensing.json.

    python benchmarks/whole_pictures.py images.h5 test.h5 models [BLOCK:RATE …]
    python benchmarks/whole_pictures.py denoiser.h5 test.h5 [BLOCK:RATE …]

The pictures are those of sensing.py. Models are kept in the folder `models`, and a run that was interrupted goes on. A
model is trained in 15 to 30 minutes on one core. The denoiser is that of

    cuista train images.h5 --task denoise --net conv-csc --sigma 1,40 -o denoiser.h5

All options have their defaults.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, of_size, save

import cuista
from cuista.data.sensing import Sensing, random_sensing
from cuista.storage import kind_of
from cuista.tasks.sensing import evaluate_reconstructors

CHOSEN = ("16:0.1", "16:0.2", "16:0.25", "16:0.3", "16:0.4", "16:0.5", "16:0.6", "33:0.1", "33:0.25", "33:0.4")

first, test, *chosen = sys.argv[1:]
denoiser = cuista.Denoiser.load(first) if kind_of(first) == "cuista-denoiser" else None
if not denoiser and not chosen:
    sys.exit(__doc__)
folder = "" if denoiser else chosen.pop(0)
path = RESULTS / "sensing.json"
for each in chosen or CHOSEN:
    side, rate = each.split(":")
    block = int(side), int(side)
    sensing = Sensing(random_sensing(block, round(float(rate) * block[0] * block[1])), block)
    model: Any
    if denoiser:
        model = cuista.PlugAndPlay(denoiser, sensing)
    else:
        model = cuista.PictureReconstructor.new(sensing)
        out = Path(folder) / f"{side}-{rate}.h5"
        cuista.train(model, task=cuista.PictureSensing(first), out=out, resume=True, progress=True)
    report = evaluate_reconstructors({"conv-csc": model}, test)
    figures = {
        "measurements": sensing.M,
        "psnr_db": round(float(report.psnr_db[:, -1].mean()), 2),
        "psnr_db_of_512x512": of_size(report, 512)["conv-csc"],
        "ssim": round(float(report.ssim[:, -1].mean()), 3),
        "parameters": sum(value.size for value in model.network.parameters.values()),
    }
    if not denoiser:
        figures["validation_psnr_db"] = round(model.training["validation_psnr_db"], 2)
    results = json.loads(path.read_text())
    name = "denoiser" if denoiser else "conv-csc"
    results.setdefault(name, {}).setdefault(f"{side}x{side}", {})[rate] = figures
    save("sensing", results)
