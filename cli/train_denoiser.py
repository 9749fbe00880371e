"""What cuista train does with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cuista.cli.common import Run, engine_on, for_bare, load_dictionary, note_left_out, say
from cuista.cli.solve_w import parse_ridge, tell_ridge, told

if TYPE_CHECKING:
    from cuista.data.dictionary import Dictionary
    from cuista.denoiser import Denoiser
    from cuista.training import Recipe
    from cuista.weights import ConvWeight


def train_denoiser(
    images: Path,
    net: str,
    recipe: Recipe,
    *,
    weight_file: Path | None,
    dictionary_file: Path | None,
    convention: str | None,
    ridge: str | None,
    sigma: float,
    crop: int | None,
    schedule: dict[str, Any],
    run: Run,
) -> None:
    """Train a convolutional network on pictures."""
    from cuista.data.dictionary import Dictionary
    from cuista.data.images import NoisyCrops
    from cuista.denoiser import Denoiser
    from cuista.training import choose_conv_ridge
    from cuista.weights import solve_conv

    strength = parse_ridge(ridge or "auto")
    if not run.is_due(Denoiser):
        return
    source = choose_source(weight_file, dictionary_file, convention, ridge, run.begun(Denoiser))
    ops = engine_on(run.device)
    with NoisyCrops(images, crop or (128 if recipe.name == "fast" else 321), sigma) as crops:
        for pictures in (crops.training, crops.validation):
            note_left_out(pictures)
        if not isinstance(source, Dictionary):
            weight = source
        elif strength is not None:
            say(f"Solving the analytic weight (ridge {strength:g}).")
            weight = solve_conv(source, ridge=strength)
        else:
            say("Solving a noise-aware weight (--ridge auto; --ridge 0 for the paper's).")
            search = {"layers": schedule.get("layers", 5), "seed": run.seed, "ops": ops}
            weight = told(choose_conv_ridge(source, crops, progress=tell_ridge, **search))
        run.train(Denoiser.new(weight, net, sigma=sigma, **schedule, ops=ops), recipe, crops)


def choose_source(
    weight_file: Path | None, dictionary_file: Path | None, convention: Any, ridge: str | None, begun: Denoiser | None
) -> ConvWeight | Dictionary:
    """The weight in the file or that of the run begun, or else the dictionary to solve one for."""
    from cuista.weights import ConvWeight

    of_dictionary, of_weight = for_bare(convention, dictionary_file, weight_file)
    dictionary = load_dictionary(dictionary_file, of_dictionary) if dictionary_file else None
    if weight_file is not None:
        if ridge is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        return ConvWeight.load(weight_file, dictionary, convention=of_weight)
    if begun is not None and (dictionary is None or begun.weight.dictionary.sha256 == dictionary.sha256):
        return begun.weight
    if dictionary is None:
        raise click.UsageError(
            "a convolutional network needs a dictionary: give --dict FILE or -W FILE (cuista learn-dict learns one "
            "from pictures, cuista gen-problem --conv imports one)"
        )
    return dictionary
