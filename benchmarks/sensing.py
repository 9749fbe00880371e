"""Compressive sensing of pictures at several rates into results/sensing.json.

    python benchmarks/sensing.py random|learned|published patches.h5 dictionary.h5 images.h5 test.h5 [RATE …]

Random and learned matrices Φ are measured in separate runs, whose results are merged in the file; `published` is for
the network with the published figures alone, and a random Φ. Each network is tested without and with a map that removes
the seams between blocks (`--deblock`).

patches.h5, images.h5 and dictionary.h5 are made from 400 pictures of the Berkeley segmentation data set for training
and 32 for validation, and test.h5 from twelve other pictures:

    cuista prepare-images bsd432 --split 400,32,0 -o images.h5
    cuista prepare-images bsd432 --split 400,32,0 --patches 16 --per-image 500 -o patches.h5
    cuista learn-dict patches.h5 --atoms 512 -o dictionary.h5
    cuista prepare-images set12 --split 0,0,12 -o test.h5

All options have their defaults. The number of measurements includes the one of a block's mean.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from common import RESULTS, of_size, save

import cuista
from cuista.data.sensing import Sensing, principal_sensing, random_sensing
from cuista.tasks.sensing import Reconstructor, evaluate_reconstructors

WORK = "blocks of 16x16, 512 atoms; all options of cuista train --task cs have their defaults"
RATES = (0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)

kind, patches_file, dictionary_file, images, test, *chosen = sys.argv[1:]
dictionary, rates = cuista.Dictionary.load(dictionary_file), tuple(map(float, chosen)) or RATES
patches = cuista.PatchSet(patches_file, "train")
pictures = [cuista.ImageSet(images, split) for split in ("train", "validation")]
rows, columns = dictionary.shape


def measured(models: dict[str, Reconstructor], baselines: cuista.PatchSet | None) -> dict[str, Any]:
    """The figures of models for one Φ."""
    reports = [evaluate_reconstructors(models, test, baselines=baselines)]
    for model in models.values():
        cuista.learn_deblocking(model, *pictures)
    reports.append(evaluate_reconstructors({f"{name}, deblocked": model for name, model in models.items()}, test))
    return {
        "measurements": next(iter(models.values())).sensing.M,
        **{
            measure: {
                method: round(float(value), digits)
                for report in reports
                for method, value in zip(report.methods, getattr(report, measure).mean(axis=0), strict=True)
            }
            for measure, digits in (("psnr_db", 2), ("ssim", 3))
        },
        "psnr_db_of_512x512": {name: value for report in reports for name, value in of_size(report, 512).items()},
        "parameters": {name: sum(p.size for p in m.network.parameters.values()) for name, m in models.items()},
        "validation_nmse_db": {name: round(m.training["validation_nmse_db"], 2) for name, m in models.items()},
    }


path = RESULTS / "sensing.json"
for rate in rates:
    M = round(rate * rows * columns)
    Phi = principal_sensing(patches, M) if kind == "learned" else random_sensing(dictionary.shape, M)
    sensing, task = Sensing(Phi, dictionary), cuista.CompressiveSensing(patches_file)
    weight = cuista.sensing_weight(sensing, task)

    def trained(net: str, **variant: bool) -> Reconstructor:
        return cuista.train(Reconstructor.new(sensing, weight, net, **variant), task=task)  # noqa: B023

    alista, figures = trained("alista"), {}
    if kind == "random":
        models = {"alista": alista, "lista-cpss:untied": trained("lista-cpss", untied=True)}
        figures["random"] = measured(models, cuista.PatchSet(patches_file, "validation"))
    elif kind == "published":
        figures["published"] = measured({"lista-cpss:untied": trained("lista-cpss", untied=True)}, None)
    else:
        figures["principal"] = measured(
            {"alista": alista, "lista-cpss:untied": trained("lista-cpss", untied=True)}, None
        )
        learned = trained("lista-cpss", untied=True, learn_sensing=True)
        figures["learned"] = measured({"lista-cpss:untied": learned}, None)
    results = json.loads(path.read_text()) if path.exists() else {"work": WORK, "rates": {}}
    results["rates"].setdefault(str(rate), {}).update(figures)
    save("sensing", results)
