"""Collect comparisons of all networks on a fresh 250×500 matrix into results/networks.json.

    cuista gen-problem --seed 301 -o p.h5
    cuista compare p.h5 --net alista --net lista-cpss:untied … -o no-noise.h5
    cuista compare p.h5 --snr 40 --snr 30 --snr 20 --net alista … -o noise.h5
    cuista gen-problem --seed 301 --con-num 30 -o kappa30.h5 && cuista compare kappa30.h5 … -o kappa-30.h5
    python benchmarks/networks.py no-noise.h5 noise.h5 kappa-30.h5 …

Training times are relative to the training time of ALISTA at the same SNR in the same comparison.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from common import save

from cuista.evaluation.comparison import Comparison

figures: dict[str, Any] = {"work": "cuista compare, all defaults, 250x500, pnz 0.1, T = 16, 10,000 fresh signals"}
for file in sys.argv[1:]:
    results = Comparison.load(file).results
    units = {result.snr_db: result.training_seconds for result in results if result.method == "alista"}
    figures[Path(file).stem] = [
        {
            "method": result.method,
            "snr_db": result.snr_db if math.isfinite(result.snr_db) else None,
            "nmse_db": round(float(result.nmse_db[-1]), 2),
            "parameters": result.parameters,
            "training_steps": result.steps,
            "training_time": round(result.training_seconds / units[result.snr_db], 2) if result.steps else None,
        }
        for result in results
    ]
save("networks", figures)
