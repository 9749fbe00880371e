"""Files of every kind that version 0.1.0 wrote can be read, and give the results that it computed from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import cuista
from cuista import storage
from cuista.data.images import ImageSet
from cuista.evaluation.comparison import Comparison
from cuista.evaluation.robustness import Robustness

# Files of 0.1.0 have no proof, which is said once.
pytestmark = pytest.mark.filterwarnings("ignore:.* has no proof")

FOLDER = Path(__file__).parent / "files_of_0.1.0"
EXPECTED = np.load(FOLDER / "expected.npz")
FILES = sorted(FOLDER.glob("*.h5"))
Y, PICTURE, MATRICES = (EXPECTED[name] for name in ("y", "picture", "matrices"))
USES = {
    cuista.Model: lambda model: model.recover(Y),
    cuista.Denoiser: lambda model: model.denoise(PICTURE),
    cuista.EncoderModel: lambda model: model.weights(MATRICES),
    cuista.RobustModel: lambda model: model.model_for(MATRICES[0]).recover(Y),
}
LOADERS = {
    "cuista-problem": cuista.Problem.load,
    "cuista-dictionary": cuista.Dictionary.load,
    "cuista-conv-weight": cuista.ConvWeight.load,
    "cuista-perturbed": cuista.PerturbedSet.load,
    "cuista-comparison": Comparison.load,
    "cuista-robustness": Robustness.load,
    "cuista-weight": lambda path: cuista.Weight.load(path, cuista.Problem.load(FOLDER / "cuista-problem.h5").A),
    "cuista-images": lambda path: list(ImageSet(path, "train").pictures()),
    "cuista-patches": storage.read,
    "cuista-report": storage.read,
}


def files_of(*kinds):
    return [path for path in FILES if path.name.startswith(kinds)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_read_as_its_kind(path, tmp_path):
    kind = storage.kind_of(path)
    assert storage.read(path).attributes["cuista_version"] == "0.1.0"
    assert LOADERS.get(kind, cuista.load)(path) is not None
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(cuista.CuistaError, match="cut"):
        LOADERS.get(kind, cuista.load)(cut)


def test_every_kind_of_trained_network_is_there():
    assert {storage.kind_of(path) for path in FILES} >= {kind.kind for kind in USES}


@pytest.mark.parametrize(
    "path", files_of("cuista-model", "cuista-denoiser", "cuista-encoder", "cuista-robust-"), ids=lambda path: path.stem
)
def test_a_trained_network_computes_what_it_did(path, tmp_path):
    model = cuista.load(path)
    expected = EXPECTED[path.stem]
    use = USES[type(model)]
    np.testing.assert_allclose(use(model), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert model.training
    # The model is still the same after it is written again.
    model.save(tmp_path / "again.h5")
    np.testing.assert_array_equal(use(cuista.load(tmp_path / "again.h5")), use(model))


@pytest.mark.parametrize("path", files_of("cuista-problem"), ids=lambda path: path.stem)
def test_a_problem_draws_the_signals_that_it_did(path):
    x, y = cuista.Problem.load(path).sample(3)
    np.testing.assert_allclose(x, EXPECTED[f"{path.stem}.x"], rtol=1e-6)
    np.testing.assert_allclose(y, EXPECTED[f"{path.stem}.y"], rtol=1e-4, atol=1e-6)


def test_an_encoder_can_be_trained_on_with_a_decoder_of_then(tmp_path):
    for name in ("cuista-encoder", "cuista-model-alista"):
        shutil.copy(FOLDER / f"{name}.h5", tmp_path)
    decoder, encoder = cuista.load(tmp_path / "cuista-model-alista.h5"), cuista.load(tmp_path / "cuista-encoder.h5")
    robust = cuista.RobustModel.new(decoder, encoder)
    cuista.train(robust, cuista.RobustRecipe(psteps=2, max_steps=2, matrices=2, batch=4))
    assert robust.training["steps"] == 2
