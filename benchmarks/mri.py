"""How well slices of a brain are recovered from few Fourier coefficients: zero-filled, FISTA, and ALISTA.

    python benchmarks/mri.py FOLDER [--rate 20 …] [--layers 12] [--steps 150]

FOLDER holds slices (brain_01.png, …) and masks (mask_10.mat, …, key mask_matrix) of the same size, as those that were
released with ISTA-Net (Zhang, Ghanem, CVPR 2018). The first 16 slices are for training and for tuning λ, and the others
are tested. The file keeps the results of rates that are not measured. Pictures are sparse in a basis of wavelets. All
methods apply the same operator, so that they can be compared by how often they apply A or Aᴴ. Results are written to
benchmarks/results/mri.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import common
import numpy as np

import cuista
from cuista.data.coefficients import coefficients
from cuista.data.pictures import read_picture
from cuista.operators import Composition, Fourier, Wavelet
from cuista.solvers.proximal import proximal_gradient
from cuista.solvers.tuning import tune_unimodal
from cuista.storage import load_array

TRAINING = 16
# FISTA's end: no iterate changes the mean PSNR by more than 0.001 dB over this many iterations.
CHECK, MOST = 20, 1000


def psnr(found: Any, codes: Any) -> float:
    """The mean PSNR in dB; errors of codes are those of pictures, because the basis is orthonormal."""
    return float(np.mean(-10 * np.log10(np.square(found - codes).mean(axis=1))))


def fista(operator: Any, y: Any, codes: Any, lam: float) -> tuple[float, int]:
    """The PSNR of FISTA at its end, and the number of iterations to it."""
    reached = [-np.inf]
    for x, _ in proximal_gradient(operator, y, lam, MOST, momentum=True, restart=True, every=CHECK):
        reached.append(psnr(x, codes))
        if abs(reached[-1] - reached[-2]) < 1e-3:
            break
    return reached[-1], CHECK * (len(reached) - 1)


def measured(folder: Path, rate: int, layers: int, steps: int, batch: int, wavelet: str, net: str) -> dict[str, Any]:
    mask = load_array(folder / f"mask_{rate}.mat", "mask_matrix")
    slices = np.stack([read_picture(path).grey() for path in sorted(folder.glob("brain_*.png"))])
    shape = slices.shape[1:]
    real = Composition(Fourier(shape, mask, dtype=np.float32), Wavelet(shape, wavelet, dtype=np.float32))
    problem = cuista.Problem(real)
    codes = coefficients(slices, problem.basis).astype(np.float32)
    training, tested = cuista.SignalSet(codes[:TRAINING]), codes[TRAINING:]
    problem = problem.fitted(training)
    model = cuista.Model.new(problem, net=net, layers=layers)
    recipe = cuista.FastRecipe(batch=batch, validation_batch=TRAINING, layer_steps=6, max_steps=steps, hard=0.0)
    cuista.train(model, recipe, data=training)
    operator = problem.operator(model.network.ops, np.float32)
    y, y_training = operator.apply(tested), operator.apply(codes[:4])
    lam = tune_unimodal(lambda lam: -fista(operator, y_training, codes[:4], lam)[0], np.geomspace(1e-3, 3e-2, 12))
    at_end, iterations = fista(operator, y, tested, lam)
    by_layer = [psnr(x, tested) for x in model.iterates(y)]
    print(
        f"{rate} %: zero-filled {psnr(operator.adjoint(y), tested):.2f}, FISTA {at_end:.2f} (λ {lam:.3g}, {iterations} "
        f"iterations), {net} {by_layer[-1]:.2f} dB after {layers} layers, trained in {model.training_seconds:.0f} s",
        flush=True,
    )
    return {
        "rate": rate,
        "steps": steps,
        "zero_filled_psnr_db": psnr(operator.adjoint(y), tested),
        "fista_psnr_db": at_end,
        "fista_iterations": iterations,
        "lam": float(lam),
        "net": net,
        "psnr_db_by_layer": by_layer,
        "learned_numbers": sum(value.size for value in model.network.parameters.values()),
        "applications": {"fista": 2 * iterations, net: 2 * layers},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=int, nargs="+", default=[10, 20, 30, 40, 50])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--wavelet", default="db4")
    parser.add_argument("--net", default="alista")
    given = parser.parse_args()
    how = (given.layers, given.steps, given.batch, given.wavelet, given.net)
    about = {"training_slices": TRAINING, "batch": given.batch, "wavelet": given.wavelet}
    file = common.RESULTS / "mri.json"
    earlier = json.loads(file.read_text())["rates"] if file.exists() else []
    results = {run["rate"]: run for run in earlier}
    for rate in given.rate:
        results[rate] = measured(given.folder, rate, *how)
        common.save("mri", {**about, "rates": [results[rate] for rate in sorted(results)]})


if __name__ == "__main__":
    main()
