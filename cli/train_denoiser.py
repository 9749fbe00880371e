"""What cuista train does with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from cuista.cli.common import Run, engine_on, for_bare, load_dictionary, note_left_out, say
from cuista.cli.solve_w import parse_ridge, tell_ridge, told

if TYPE_CHECKING:
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
    from cuista.denoiser import Denoiser
    from cuista.images import NoisyCrops

    parse_ridge(ridge or "auto")  # says now what is wrong with it
    if not run.is_due(Denoiser):
        return
    begun = run.begun(Denoiser)
    if (weight_file, dictionary_file, begun) == (None, None, None):
        raise click.UsageError(
            "a convolutional network needs a dictionary: give --dict FILE or -W FILE (cuista learn-dict learns one "
            "from pictures, cuista gen-problem --conv imports one)"
        )
    ops = engine_on(run.device)
    layers = schedule.get("layers", 5)
    with NoisyCrops(images, crop or (128 if recipe.name == "fast" else 321), sigma) as crops:
        for pictures in (crops.training, crops.validation):
            note_left_out(pictures)
        search = {"crops": crops, "layers": layers, "seed": run.seed, "ops": ops}
        weight = choose_weight(weight_file, dictionary_file, convention, ridge, begun, search)
        denoiser = Denoiser.new(weight, net, sigma=sigma, **schedule, ops=ops)
        run.train(denoiser, recipe, crops)


def choose_weight(
    weight_file: Path | None,
    dictionary_file: Path | None,
    convention: Any,
    ridge: str | None,
    begun: Denoiser | None,
    search: dict[str, Any],
) -> ConvWeight:
    """The weight in the file, that of the run begun, or one solved now for the dictionary given.

    `search` has the options with which its ridge is searched for.
    """
    from cuista.training import choose_conv_ridge
    from cuista.weights import ConvWeight, solve_conv

    of_dictionary, of_weight = for_bare(convention, dictionary_file, weight_file)
    dictionary = load_dictionary(dictionary_file, of_dictionary) if dictionary_file else None
    if weight_file is not None:
        if ridge is not None:
            raise click.UsageError("--ridge is for a weight solved here, and -W gives one: leave one of them out")
        return ConvWeight.load(weight_file, dictionary, convention=of_weight)
    if begun is not None and (dictionary is None or begun.weight.dictionary.sha256 == dictionary.sha256):
        return begun.weight
    assert dictionary is not None  # `train_denoiser` has seen to it
    strength = parse_ridge("auto" if ridge is None else ridge)
    if strength is None:
        say("Solving a noise-aware weight (--ridge auto; --ridge 0 for the paper's).")
        return told(choose_conv_ridge(dictionary, progress=tell_ridge, **search))
    say(f"Solving the analytic weight (ridge {strength:g}).")
    return solve_conv(dictionary, ridge=strength)
