"""Compressive sensing: measured blocks, dictionaries of patches, networks that recover pictures, and their commands."""

from __future__ import annotations

import json
import shutil
import signal

import numpy as np
import pytest
from conftest import kernels_on_the_cpu
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from shim.gpu import DeviceArray, DeviceModule, launcher_on
from test_pictures import save, scene

from cuista import storage
from cuista.counter import TRAINING, VALIDATION, Key
from cuista.data.dictionary import Dictionary, rotate
from cuista.data.form import Form
from cuista.data.images import ImageSet, PatchSet, prepare_images
from cuista.data.sensing import Measurements, Sensing, principal_sensing, random_sensing
from cuista.errors import DivergedError, FileError, InputError
from cuista.metrics import psnr_db
from cuista.networks import NETWORKS
from cuista.ops import CpuOps, CudaOps
from cuista.solvers.proximal import proximal_gradient
from cuista.tasks.deblocking import deblocked, fit_deblocking, windows
from cuista.tasks.sensing import (
    SENSING_NETWORKS,
    BlockFista,
    CompressiveSensing,
    PatchFastRecipe,
    PatchPaperRecipe,
    Reconstructor,
    evaluate_reconstructors,
    learn_deblocking,
    sensing_weight,
)
from cuista.training import AtomRecipe, FastRecipe, learn_atoms, train
from cuista.weights import solve_exact

QUICK = PatchFastRecipe(max_steps=30, matrix_steps=20, batch=32, validation_batch=64)


def atoms(block=(4, 4), count=24, seed=0):
    """Random atoms without means as a dictionary."""
    D = np.random.default_rng(seed).standard_normal((block[0] * block[1], count))
    return Dictionary.from_atoms((D - D.mean(axis=0)) / 4, block)


def sensed(block=(4, 4), M=8, **options):
    return Sensing(random_sensing(block, M), atoms(block, **options))


@pytest.fixture
def folder(tmp_path):
    """A folder with six pictures."""
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        save(tmp_path / "pictures" / f"{number}.png", scene((40, 52), seed=number))
    return tmp_path / "pictures"


@pytest.fixture
def patches(folder, tmp_path):
    prepare_images(folder, tmp_path / "patches.h5", split=(4, 2, 0), patches=4, per_image=300)
    return tmp_path / "patches.h5"


@pytest.fixture
def learned(patches):
    """How blocks are measured, with a dictionary that was learned from the patches."""
    D = learn_atoms(PatchSet(patches, "train"), 24, AtomRecipe(steps=40, batch=64, lam=0.05))
    return Sensing(random_sensing((4, 4), 5), D)


@pytest.fixture
def quick_fista(monkeypatch):
    """FISTA whose end is near."""
    monkeypatch.setattr("cuista.tasks.sensing.ITERATIONS", 50)


# -- blocks and their measurements ------------------------------------------------------------------------------------


@given(H=st.integers(1, 20), W=st.integers(1, 20), block=st.tuples(st.integers(1, 5), st.integers(2, 6)))
def test_a_picture_consists_of_its_blocks(H, W, block):
    sensing, picture = sensed(block, 2), np.random.default_rng(H + 21 * W).random((H, W))
    blocks = sensing.blocks(picture)
    assert blocks.shape == (np.prod(sensing.grid((H, W))), sensing.P)
    np.testing.assert_array_equal(sensing.picture(blocks, (H, W)), picture)
    np.testing.assert_array_equal(blocks[0].reshape(block)[0, 0], picture[0, 0])


def test_a_picture_is_continued_with_its_last_row_and_column():
    blocks = sensed().blocks(np.arange(15.0).reshape(3, 5))
    np.testing.assert_array_equal(blocks[1].reshape(4, 4), [[4] * 4, [9] * 4, [14] * 4, [14] * 4])


def test_a_random_matrix_measures_the_mean_by_its_first_row():
    Phi = random_sensing((4, 5), 9, seed=3)
    np.testing.assert_allclose(Phi[0], 1 / 3)
    np.testing.assert_allclose(Phi[1:].sum(axis=1), 0, atol=1e-14)
    large = random_sensing((16, 16), 100)
    assert large[1:].var() == pytest.approx(1 / 100, rel=0.05)
    np.testing.assert_array_equal(random_sensing((4, 5), 9, seed=3), Phi)
    assert not np.array_equal(random_sensing((4, 5), 9, seed=4), Phi)
    for M in (1, 21):
        with pytest.raises(InputError, match="expected 2 to 20"):
            random_sensing((4, 5), M)


@pytest.mark.parametrize("mixed", [False, True], ids=["first-row", "mixed-rows"])
def test_the_mean_is_found_exactly_if_the_rows_determine_it(mixed, rng):
    Phi = random_sensing((4, 4), 8)
    sensing = Sensing(rng.standard_normal((8, 8)) @ Phi if mixed else Phi, atoms())
    assert sensing.measures_means
    f, x = rng.random((5, 16)), rng.standard_normal((5, 24))
    reduced, means = sensing.without_mean(f @ sensing.Phi.T)
    np.testing.assert_allclose(means[:, 0], f.mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(reduced, (f - means) @ sensing.reduced.T, atol=1e-12)
    # What is left depends on the sparse code by A, and nothing is lost.
    reduced, _ = sensing.without_mean((0.3 + x @ sensing.dictionary.atoms.T) @ sensing.Phi.T)
    np.testing.assert_allclose(reduced, x @ sensing.A.T, atol=1e-12)
    assert sensing.A.shape == (7, 24)
    np.testing.assert_allclose(sensing.reduction @ sensing.reduction.T, np.eye(7), atol=1e-12)
    if not mixed:
        np.testing.assert_allclose(sensing.reduced, sensing.Phi[1:], atol=1e-12)


@pytest.mark.parametrize("rounded", [lambda Phi: Phi.astype(np.float32), lambda Phi: Phi.round(4)], ids=["f4", "4"])
def test_a_mean_survives_the_rounding_of_the_matrix(rounded, rng):
    mixed = np.linalg.qr(np.c_[np.ones(16), rng.standard_normal((16, 7))])[0].T
    Phi = rounded(np.linalg.qr(rng.standard_normal((8, 8)))[0] @ mixed)
    sensing, f = Sensing(Phi, atoms()), rng.random((50, 16))
    _, means = sensing.without_mean(f @ sensing.Phi.T)
    np.testing.assert_allclose(means[:, 0], f.mean(axis=1), atol=1e-3)


@pytest.mark.parametrize("row", [0, 3, 7])
def test_rounding_does_not_choose_the_coordinates(row, rng):
    """A network is trained for A, and must find the same A wherever its file is read."""
    Phi = np.roll(random_sensing((4, 4), 8), row, axis=0)
    first = Sensing(Phi, atoms())
    for _ in range(20):
        again = Sensing(Phi * (1 + 1e-15 * rng.standard_normal(Phi.shape)), atoms())
        np.testing.assert_allclose(again.A, first.A, atol=1e-12)


def test_a_mean_that_is_not_measured_is_estimated_without_bias(rng):
    sensing = Sensing(rng.standard_normal((8, 16)), atoms())
    assert not sensing.measures_means
    assert sensing.A.shape == (8, 24)
    for constant in (0.2, 0.9):
        reduced, means = sensing.without_mean(np.full((1, 16), constant) @ sensing.Phi.T)
        np.testing.assert_allclose(means, constant, rtol=1e-12)
        np.testing.assert_allclose(reduced, 0, atol=1e-12)
    # Among estimates without bias, this one has the least variance for codes of equal variance.
    c, spread = sensing.mean_weights, sensing.Phi @ sensing.dictionary.atoms
    for _ in range(5):
        other = rng.standard_normal(8)
        other += (1 - other @ sensing.Phi.sum(axis=1)) * c
        assert np.linalg.norm(c @ spread) < np.linalg.norm(other @ spread)


def test_the_least_norm_solution_agrees_with_the_measurements(rng):
    sensing, f = sensed(), rng.random((5, 16))
    y = f @ sensing.Phi.T
    found = sensing.least_norm(y)
    np.testing.assert_allclose(found @ sensing.Phi.T, y, atol=1e-12)
    assert (found.var(axis=1) <= f.var(axis=1) + 1e-12).all()
    rows = np.linalg.qr(np.c_[np.ones(16), rng.standard_normal((16, 5))])[0].T
    orthonormal = Sensing(rows, atoms())
    np.testing.assert_allclose(orthonormal.least_norm(f @ rows.T), f @ rows.T @ rows, atol=1e-12)


def test_wrong_matrices_are_refused():
    for Phi, text in (
        (np.ones((3, 15)), r"shape \(3, 15\); expected \(M, 16\)"),
        (np.ones((1, 16)), "M from 2 to 16"),
        (random_sensing((4, 4), 8)[1:], "nothing of the mean"),
        (np.ones((17, 16)), "M from 2 to 16"),
        (np.full((3, 16), np.nan), "NaN"),
        (np.ones(16), r"shape \(16,\)"),
    ):
        with pytest.raises(InputError, match=text):
            Sensing(Phi, atoms())


def test_a_file_brings_everything_back_and_proves_itself(tmp_path):
    sensing = sensed()
    sensing.save(tmp_path / "s.h5")
    loaded = Sensing.load(tmp_path / "s.h5")
    assert loaded.sha256 == sensing.sha256
    np.testing.assert_array_equal(loaded.Phi, sensing.Phi)
    record = storage.read(tmp_path / "s.h5", "cuista-sensing")
    record.arrays["Phi"] = record.arrays["Phi"][::-1]
    storage.write(tmp_path / "t.h5", record)
    with pytest.raises(FileError, match="its Φ does not have the hash"):
        Sensing.load(tmp_path / "t.h5")


# -- patches and dictionaries -----------------------------------------------------------------------------------------


def test_patches_are_a_pure_function_of_the_key(patches):
    training, validation = PatchSet(patches, "train"), PatchSet(patches, "validation")
    assert (len(training), len(validation), training.shape) == (1200, 600, (4, 4))
    drawn = training.draw(Key(3, TRAINING, 5), 50)
    assert (drawn.shape, drawn.dtype) == ((50, 16), np.float32)
    np.testing.assert_array_equal(PatchSet(patches, "train").draw(Key(3, TRAINING, 5), 50), drawn)
    assert not np.array_equal(training.draw(Key(3, TRAINING, 6), 50), drawn)
    arrays = storage.read(patches, "cuista-patches").arrays
    stored = np.concatenate([arrays[name] for name in sorted(arrays) if name.startswith("train/")]).reshape(-1, 16)
    known = {tuple(patch) for patch in stored}
    assert all(tuple(patch) in known for patch in np.rint(255 * drawn).astype(int))
    with pytest.raises(InputError, match="no patches for test"):
        PatchSet(patches, "test")


def test_atoms_are_what_a_single_entry_of_the_maps_adds():
    dictionary = Dictionary(np.random.default_rng(0).standard_normal((3, 2, 5)))
    maps = np.zeros((5, 8, 8))
    maps[2, 4, 4] = 1
    picture = CpuOps().synthesize(maps, dictionary.D)
    assert np.count_nonzero(picture) == 6
    np.testing.assert_array_equal(picture[picture != 0].reshape(3, 2), dictionary.atoms[:, 2].reshape(3, 2))
    np.testing.assert_array_equal(Dictionary.from_atoms(dictionary.atoms, (3, 2)).D, dictionary.D)


def test_bare_arrays_hold_atoms_as_they_appear(tmp_path, rng):
    D = rng.standard_normal((16, 7))
    for array in (D, D.reshape(4, 4, 7)):
        np.save(tmp_path / "D.npy", array)
        loaded = Dictionary.load_atoms(tmp_path / "D.npy")
        np.testing.assert_array_equal(loaded.atoms, D)
        assert loaded.shape == (4, 4)
    loaded.save(tmp_path / "d.h5")
    np.testing.assert_array_equal(Dictionary.load_atoms(tmp_path / "d.h5").atoms, D)
    np.save(tmp_path / "D.npy", D[:15])
    with pytest.raises(InputError, match=r"shape \(15, 7\); expected \(P, N\)"):
        Dictionary.load_atoms(tmp_path / "D.npy")


def objective(dictionary, patches, lam=0.05):
    """The objective per patch of validation patches, with their codes after many iterations of FISTA."""
    from cuista.operators import Dense

    f = PatchSet(patches, "validation").draw(Key(0, VALIDATION), 100)
    f -= f.mean(axis=1, keepdims=True)
    operator = Dense(dictionary.atoms, dtype=np.float64)
    *_, (x, image) = proximal_gradient(operator, f.astype(np.float64), lam, 300, momentum=True)
    return (0.5 * np.square(f - image).sum() + lam * np.abs(x).sum()) / len(f)


def test_learned_atoms_code_patches_better_and_resume_to_the_bit(patches, tmp_path):
    training, recipe, seen = PatchSet(patches, "train"), AtomRecipe(steps=30, batch=64, lam=0.05), []
    learned = learn_atoms(training, 24, recipe, out=tmp_path / "d.h5", progress=lambda *now: seen.append(now))
    np.testing.assert_allclose(np.linalg.norm(learned.atoms, axis=0), 1)
    np.testing.assert_allclose(learned.atoms.mean(axis=0), 0, atol=1e-6)
    assert objective(learned, patches) < 0.9 * objective(learn_atoms(training, 24, AtomRecipe(steps=1)), patches)
    assert (len(seen), seen[-1][2] < seen[0][2]) == (30, True)
    again = {"out": tmp_path / "again.h5"}

    def interrupt(step, steps, objective):
        if step == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        learn_atoms(training, 24, recipe, **again, progress=interrupt)
    with pytest.raises(FileError, match="atoms"):
        learn_atoms(training, 25, recipe, **again, resume=True)
    resumed = learn_atoms(training, 24, recipe, **again, resume=True)
    np.testing.assert_array_equal(resumed.D, learned.D)


def test_one_atom_can_be_constant(patches, tmp_path):
    training, recipe = PatchSet(patches, "train"), AtomRecipe(steps=5, batch=64)
    with_constant = {"constant": True, "out": tmp_path / "d.h5"}
    for _ in ("learned", "read again"):
        atoms = learn_atoms(training, 6, recipe, **with_constant, resume=True).atoms
        np.testing.assert_allclose(atoms[:, 0], 1 / np.sqrt(len(atoms)))
        np.testing.assert_array_equal(atoms[:, 1:], learn_atoms(training, 5, recipe).atoms)
    with pytest.raises(InputError, match="the number of atoms is 1; expected 2 or more"):
        learn_atoms(training, 1, constant=True)


def test_an_atom_that_no_patch_uses_is_replaced(patches):
    from cuista.training import dictionary as module

    learner = module._Atoms(PatchSet(patches, "train"), 24, AtomRecipe(batch=64, lam=0.05))
    state = learner.begin(0)
    state["D"][:, 5] = 0.25  # a constant is orthogonal to every patch
    learner.step(state, Key(0, TRAINING))
    assert np.linalg.norm(state["D"][:, 5]) == pytest.approx(1, rel=1e-6)
    assert state["D"][:, 5].mean() == pytest.approx(0, abs=1e-6)


# -- networks ---------------------------------------------------------------------------------------------------------


def variants():
    named = [(name, NETWORKS[name]) for name in SENSING_NETWORKS]
    return [(name, untied) for name, kind in named for untied in (False, True)[: 1 + kind.can_untie]]


@pytest.mark.parametrize(("net", "untied"), variants())
def test_training_recovers_pictures_and_a_file_brings_all_back(patches, learned, tmp_path, net, untied):
    model = Reconstructor.new(learned, solve_exact(learned.A, ridge=0.1), net, layers=3, untied=untied)
    task = CompressiveSensing(patches)
    recipe = QUICK if model.network.has_gradients else task.recipe(model)
    train(model, recipe, task=task, out=tmp_path / "m.h5")
    clean = scene((40, 52), seed=9)
    y = learned.measure(clean)
    found, start = model.reconstruct(y, clean.shape), learned.picture(learned.least_norm(y), clean.shape)
    assert psnr_db(found, clean) > psnr_db(start, clean) + 0.5
    loaded = Reconstructor.load(tmp_path / "m.h5")
    np.testing.assert_array_equal(loaded.reconstruct(y, clean.shape), found)
    assert loaded.training == model.training
    assert ("dictionary" in loaded.network.parameters) == bool(model.network.matrices)
    if model.network.matrices:
        assert not np.array_equal(loaded.network.parameters["dictionary"][0], learned.dictionary.atoms)


def test_steps_of_a_fresh_network_do_not_diverge(learned):
    model = Reconstructor.new(learned, layers=300, percent=0)
    model.network.parameters["threshold"][:] = 0
    f = 0.1 * np.random.default_rng(0).standard_normal((5, learned.P))
    y, _ = learned.without_mean(f @ learned.Phi.T)
    *_, x = model.network.iterates(y)
    np.testing.assert_allclose(x @ learned.A.T, y, atol=1e-3)


def test_the_paper_recipe_trains_the_dictionary_with_the_last_layer_only(patches, learned):
    model, task = Reconstructor.new(learned, net="lista-cpss", layers=2), CompressiveSensing(patches)
    model.network.parameters["threshold"][:] = 1e-3
    recipe, at = PatchPaperRecipe(max_steps=10, validation_batch=50), []
    start = model.network.parameters["dictionary"].copy()

    def watch(progress):
        at.append((progress.title, np.array_equal(model.network.parameters["dictionary"], start)))

    train(model, recipe, task=task, progress=watch)
    assert model.network.penalty == 0.2
    assert {same for title, same in at if title.startswith("layer 1/2")} == {True}
    assert {same for title, same in at if title.startswith("layer 2/2")} == {False}


def test_an_interrupted_run_is_resumed_to_the_bit(patches, learned, tmp_path):
    def fresh():
        return Reconstructor.new(learned, net="lista-cpss", layers=2, untied=True)

    whole = train(fresh(), QUICK, task=CompressiveSensing(patches))
    for title, step in (("all layers", 13), ("everything", 9)):

        def interrupt(progress, title=title, step=step):
            if (progress.title, progress.step) == (title, step):
                signal.raise_signal(signal.SIGINT)

        how = {"task": CompressiveSensing(patches), "out": tmp_path / "m.h5", "resume": True}
        with pytest.raises(KeyboardInterrupt):
            train(fresh(), QUICK, progress=interrupt, **how)
    cut = train(fresh(), QUICK, **how)
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(cut.network.parameters[name], value)


@pytest.mark.parametrize("net", ["alista", "lista-cpss", "lista"])
def test_the_cuda_engine_trains_to_the_same(cuda, patches, learned, net):
    recipe = PatchFastRecipe(max_steps=3, matrix_steps=3, batch=16, validation_batch=16)
    plain, device = (Reconstructor.new(learned, net=net, layers=2, dtype=np.float64, ops=ops) for ops in (None, cuda))
    for model in (plain, device):
        train(model, recipe, task=CompressiveSensing(patches))
    for name, value in plain.network.parameters.items():
        np.testing.assert_allclose(cuda.to_numpy(device.network.parameters[name]), value, rtol=1e-7, atol=1e-12)
    y = learned.measure(scene())
    np.testing.assert_allclose(device.recover_blocks(y), plain.recover_blocks(y), atol=1e-8)


def test_nothing_is_read_back_between_validations(patches, learned, request):
    ops = CudaOps(DeviceModule(), launcher_on(kernels_on_the_cpu(request.config)))
    recipe, waits = PatchFastRecipe(max_steps=12, matrix_steps=12, batch=8, validation_batch=8), []

    def count(progress):
        if 1 < progress.step < progress.steps:
            waits.append(DeviceArray.waits)
        DeviceArray.waits = 0

    model = Reconstructor.new(learned, net="lista-cpss", layers=2, untied=True, ops=ops)
    train(model, recipe, task=CompressiveSensing(patches), progress=count)
    assert len(waits) == 20
    assert not any(waits)


# -- a learned Φ ------------------------------------------------------------------------------------------------------


def test_principal_components_measure_more_than_any_other_rows(patches, rng):
    training = PatchSet(patches, "train")
    Phi = principal_sensing(training, 5)
    np.testing.assert_allclose(Phi @ Phi.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(Phi[0], 0.25)
    f = training.draw(Key(0, TRAINING), 5000).astype(np.float64)
    f -= f.mean(axis=1, keepdims=True)

    def lost(rows):
        return np.square(f - f @ rows.T @ rows).sum()

    for _ in range(5):
        others = np.linalg.qr(np.c_[np.ones(16), Phi[1:].T + 0.3 * rng.standard_normal((16, 4))])[0].T
        assert lost(Phi) < lost(others)
    with pytest.raises(InputError, match="expected 2 to 16"):
        principal_sensing(training, 17)


def learning(sensing, **options):
    return Reconstructor.new(sensing, net="lista-cpss", layers=2, untied=True, learn_sensing=True, **options)


def test_a_learned_matrix_recovers_more_and_belongs_to_the_trained_model(patches, learned, tmp_path):
    recipe, task = PatchFastRecipe(max_steps=30, matrix_steps=60, batch=32), CompressiveSensing(patches)
    fixed = train(Reconstructor.new(learned, net="lista-cpss", layers=2, untied=True), recipe, task=task)
    model = train(learning(learned), recipe, task=task, out=tmp_path / "m.h5")
    assert model.training["validation_nmse_db"] < fixed.training["validation_nmse_db"] - 0.5
    assert not model.learns_sensing
    assert model.sensing.M == learned.M
    assert model.sensing.measures_means
    clean = scene((40, 52), seed=9)
    y = model.sensing.measure(clean)
    found = model.reconstruct(y, clean.shape)
    assert psnr_db(found, clean) > psnr_db(fixed.reconstruct(learned.measure(clean), clean.shape), clean) + 0.5
    # What is validated in training is what the model does afterwards.
    f = task.validation.draw(Key(0, VALIDATION), recipe.validation_batch).astype(np.float64)
    error = model.recover_blocks(f @ model.sensing.Phi.T) - f
    f -= f.mean(axis=1, keepdims=True)
    nmse = 10 * np.log10(np.square(error).sum() / np.square(f).sum())
    assert nmse == pytest.approx(model.training["validation_nmse_db"], abs=1e-3)
    loaded = Reconstructor.load(tmp_path / "m.h5")
    np.testing.assert_array_equal(loaded.reconstruct(y, clean.shape), found)
    assert loaded.sensing.sha256 == model.sensing.sha256
    with pytest.raises(FileError, match="learn_sensing"):
        train(Reconstructor.new(learned, net="lista-cpss", layers=2, untied=True), recipe, task=task,
              out=tmp_path / "m.h5", resume=True)  # fmt: skip
    finished = train(learning(learned), recipe, task=task, out=tmp_path / "m.h5", resume=True)
    np.testing.assert_array_equal(finished.reconstruct(y, clean.shape), found)


def test_learning_a_matrix_is_resumed_to_the_bit(patches, learned, tmp_path):
    whole = train(learning(learned), QUICK, task=CompressiveSensing(patches))
    how = {"task": CompressiveSensing(patches), "out": tmp_path / "m.h5", "resume": True}
    for title, step in (("all layers", 13), ("everything", 9)):

        def interrupt(progress, title=title, step=step):
            if (progress.title, progress.step) == (title, step):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(learning(learned), QUICK, progress=interrupt, **how)
    cut = train(learning(learned), QUICK, **how)
    assert cut.sensing.sha256 == whole.sensing.sha256
    for name, value in whole.network.parameters.items():
        np.testing.assert_array_equal(cut.network.parameters[name], value)


def test_the_paper_recipe_learns_a_matrix_from_the_first_layer_on(patches, learned):
    model, moved = learning(learned), set()
    recipe = PatchPaperRecipe(max_steps=10, validation_batch=50, learning_rate=1e-3)

    def watch(progress):
        if not np.array_equal(model.network.parameters["sensing"][0], learned.reduced.astype(np.float32)):
            moved.add(progress.title)

    train(model, recipe, task=CompressiveSensing(patches), progress=watch)
    assert any(title.startswith("layer 1/2") for title in moved)
    assert not np.allclose(model.sensing.reduced, learned.reduced)


@pytest.mark.parametrize("net", ["lista-cp", "tilista"])
def test_the_cuda_engine_learns_the_same_matrix(cuda, patches, learned, net):
    recipe = PatchFastRecipe(max_steps=3, matrix_steps=3, batch=16, validation_batch=16)
    plain, device = (
        Reconstructor.new(learned, net=net, layers=2, learn_sensing=True, dtype=np.float64, ops=ops)
        for ops in (None, cuda)
    )
    for model in (plain, device):
        train(model, recipe, task=CompressiveSensing(patches))
    np.testing.assert_allclose(device.sensing.Phi, plain.sensing.Phi, rtol=1e-7, atol=1e-10)
    y = plain.sensing.measure(scene())
    np.testing.assert_allclose(device.recover_blocks(y), plain.recover_blocks(y), atol=1e-7)


def test_a_diverged_run_leaves_a_model_with_its_matrix(patches, learned, tmp_path):
    recipe = PatchFastRecipe(max_steps=5, matrix_steps=300, matrix_rate=1e6)
    with pytest.raises(DivergedError, match="last good parameters are in"):
        train(learning(learned), recipe, task=CompressiveSensing(patches), out=tmp_path / "m.h5")
    saved = Reconstructor.load(tmp_path / "m.h5.last-good.h5")
    assert not saved.learns_sensing
    assert saved.reconstruct(saved.sensing.measure(scene((8, 8))), (8, 8)).shape == (8, 8)


def test_a_matrix_is_learned_only_if_its_means_and_the_network_allow_it(learned, rng):
    with pytest.raises(InputError, match="lista cannot learn Φ; expected one of lista-cp, lista-cpss, tilista"):
        Reconstructor.new(learned, net="lista", learn_sensing=True)
    with pytest.raises(InputError, match="Φ is still being learned: train the model first"):
        learning(learned).recover_blocks(np.zeros((1, 5)))
    with pytest.raises(InputError, match="do not follow from this Φ exactly"):
        learning(Sensing(rng.standard_normal((5, 16)), learned.dictionary))


def test_the_ridge_is_the_one_that_recovers_best(patches, learned):
    said = []
    weight = sensing_weight(learned, CompressiveSensing(patches), layers=3, say=said.append)
    errors = {float(line.split()[1][:-1]): float(line.split()[2]) for line in said if line.startswith("  ridge")}
    assert len(errors) == 3
    assert weight.report.ridge == pytest.approx(min(errors, key=errors.get), rel=1e-4)
    assert sensing_weight(learned, CompressiveSensing(patches), ridge=0.5).report.ridge == 0.5


def test_what_does_not_fit_is_refused_before_it_trains(patches, learned, folder, tmp_path):
    with pytest.raises(InputError, match="give task=CompressiveSensing"):
        train(Reconstructor.new(learned))
    with pytest.raises(InputError, match="expected PatchFastRecipe or PatchPaperRecipe"):
        train(Reconstructor.new(learned), FastRecipe(), task=CompressiveSensing(patches))
    with pytest.raises(InputError, match="patches of 4×4 pixels, but blocks of 4×5"):
        train(Reconstructor.new(sensed((4, 5))), QUICK, task=CompressiveSensing(patches))
    for net in ("conv-alista", "lamp"):
        with pytest.raises(InputError, match="is not a network for this task"):
            Reconstructor.new(learned, net=net)
    with pytest.raises(InputError, match="not one of this Φ"):
        Reconstructor.new(learned, solve_exact(sensed().A))
    model = Reconstructor.new(learned, layers=2)
    with pytest.raises(InputError, match=r"measurements of 3 blocks; expected 2×3 = 6"):
        model.reconstruct(np.zeros((3, 5)), (8, 12))
    with pytest.raises(InputError, match=r"shape \(3, 7\)"):
        model.recover_blocks(np.zeros((3, 7)))


def test_fista_and_networks_are_tested_on_the_same_measurements(patches, learned, folder, tmp_path, quick_fista):
    prepare_images(folder, tmp_path / "test.h5", split=(0, 0, 2))
    model = train(Reconstructor.new(learned, layers=3), QUICK, task=CompressiveSensing(patches))
    report = evaluate_reconstructors(
        {"alista": model}, tmp_path / "test.h5", baselines=PatchSet(patches, "validation"), seed=1
    )
    assert report.methods == ("least norm", "fista 3", "fista 50", "alista")
    assert report.about == {"rate": 5 / 16}
    solver = BlockFista(learned, 3)
    assert solver.tune(PatchSet(patches, "validation").draw(Key(1, 5), 1000)) == report.lambdas["fista 3"]
    clean = scene((40, 52), seed=int(report.pictures[0][0]))
    clean = np.rint(255 * clean) / 255
    for method, recover in (("fista 3", solver.recover_blocks), ("alista", model.recover_blocks)):
        found = np.clip(learned.picture(recover(learned.measure(clean)), clean.shape), 0, 1)
        assert report.psnr_db[0, report.methods.index(method)] == pytest.approx(psnr_db(found, clean), abs=1e-6)
    prepare_images(folder, tmp_path / "large.h5", split=(2, 2, 0), patches=5, per_image=9)
    with pytest.raises(InputError, match="patches of 5×5 pixels, but blocks of 4×4"):
        evaluate_reconstructors(
            {"a": model}, tmp_path / "test.h5", baselines=PatchSet(tmp_path / "large.h5", "validation")
        )
    other = Reconstructor.new(sensed())
    with pytest.raises(InputError, match="different Φ"):
        evaluate_reconstructors({"a": model, "b": other}, tmp_path / "test.h5")


# -- seams ------------------------------------------------------------------------------------------------------------


def test_a_window_is_a_block_and_what_lies_around_it():
    sensing, picture = sensed((4, 6)), np.random.default_rng(0).random((11, 17))
    found = windows(sensing, picture)
    assert found.shape == (9, 12 * 14)
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-12)
    padded = np.pad(picture, ((4, 5), (4, 5)), mode="edge")
    expected = padded[4 : 4 + 12, 6 : 6 + 14]  # of the block in the second row and column
    np.testing.assert_allclose(found[4], (expected - expected.mean()).ravel(), atol=1e-12)


def test_the_map_against_seams_is_the_best_linear_one(rng):
    sensing = sensed()
    pictures = [scene((40, 52), seed=seed) for seed in range(6)]
    pairs = [(sensing.picture(sensing.least_norm(sensing.measure(p)), p.shape), p) for p in pictures]
    seams, gain = fit_deblocking(sensing, pairs[:4], pairs[4:])

    def error(which, B):
        return sum(np.square(deblocked(sensing, B, found) - clean).sum() for found, clean in which)

    # Up to the ridge, no other map has a smaller error on the pictures for training.
    for _ in range(5):
        other = seams + 1e-2 * rng.standard_normal(seams.shape)
        assert error(pairs[:4], seams) < error(pairs[:4], other)
    assert gain > 0.5
    assert gain == pytest.approx(10 * np.log10(error(pairs[4:], 0 * seams) / error(pairs[4:], seams)), abs=1e-6)


def test_without_gain_there_is_no_map(rng):
    sensing = sensed()
    noise = [(p := scene((40, 52), seed), p + 0.1 * rng.standard_normal(p.shape)) for seed in range(2)]
    seams, gain = fit_deblocking(sensing, noise[:1], noise[1:])
    assert (gain, seams.any()) == (0, False)
    flat = [(np.full((8, 8), 0.5), np.full((8, 8), 0.5))]
    assert fit_deblocking(sensing, flat, flat)[1] == 0


def test_a_model_keeps_its_map_against_seams(patches, learned, folder, tmp_path):
    prepare_images(folder, tmp_path / "images.h5", split=(3, 1, 2))
    model = train(Reconstructor.new(learned, layers=3), QUICK, task=CompressiveSensing(patches))
    before, seen = evaluate_reconstructors({"alista": model}, tmp_path / "images.h5"), []
    sets = [ImageSet(tmp_path / "images.h5", split) for split in ("train", "validation")]
    gain = learn_deblocking(model, *sets, progress=lambda *now: seen.append(now))
    assert gain > 0.2
    assert [share for share, _ in seen] == [0.25, 0.5, 0.75, 1]
    after = evaluate_reconstructors({"alista": model}, tmp_path / "images.h5")
    assert after.psnr_db[:, 1].mean() > before.psnr_db[:, 1].mean() + 0.2
    np.testing.assert_array_equal(after.psnr_db[:, 0], before.psnr_db[:, 0])
    model.save(tmp_path / "m.h5")
    loaded, y = Reconstructor.load(tmp_path / "m.h5"), learned.measure(scene((9, 11)))
    np.testing.assert_array_equal(loaded.reconstruct(y, (9, 11)), model.reconstruct(y, (9, 11)))
    assert learn_deblocking(loaded, *sets) == gain
    train(loaded, QUICK, task=CompressiveSensing(patches))
    assert loaded.deblocking is None  # it was for the network before
    record = storage.read(tmp_path / "m.h5", Reconstructor.kind)
    record.arrays["deblocking"] = record.arrays["deblocking"][1:]
    storage.write(tmp_path / "t.h5", record)
    with pytest.raises(FileError, match="its deblocking has shape"):
        Reconstructor.load(tmp_path / "t.h5")


# -- the command line -------------------------------------------------------------------------------------------------

TRAIN = ("--max-steps", 20, "--matrix-steps", 10, "--batch", 32, "--validation-batch", 64, "-T", 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where the files of `prepared` are kept for the next test."""
    return tmp_path_factory.mktemp("made") / "files"


@pytest.fixture
def prepared(run, folder, made, tmp_path):
    """A folder with patches, a dictionary, a problem, and a trained model."""
    if made.exists():
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
        return run
    run("prepare-images", folder, "--split", "4,2,0", "--patches", 4, "--per-image", 200, "-o", "patches.h5")
    run("learn-dict", "patches.h5", "--atoms", 24, "--steps", 10, "--batch", 64)
    run("gen-problem", "--task", "cs", "--dict", "dictionary.h5", "--rate", 0.5)
    run("train", "patches.h5", "--problem", "sensing.h5", *TRAIN)  # patches name the task
    assert "validation NMSE" in run.errors
    shutil.copytree(tmp_path, made)
    return run


def test_from_a_folder_to_a_reconstructed_picture(prepared, folder, quick_fista):
    run = prepared
    run("prepare-images", folder, "--split", "0,0,3", "-o", "test.h5")
    assert "0 for train, 0 for validation, 3 for test" in run.errors
    table = run("test", "model.h5", "--images", "test.h5", "--baselines", "patches.h5", "-o", "report.h5")
    for word in ("least norm dB", "fista 2 dB", "fista 50 dB", "alista SSIM", "mean"):
        assert word in table
    result = json.loads(run("test", "model.h5", "--images", "test.h5", "--json"))
    assert result["rate"] == 0.5
    # A dictionary of ten steps and a network of a few are about as good as the least norm.
    assert result["mean"]["alista"]["psnr_db"] > result["mean"]["least norm"]["psnr_db"] - 0.1
    colours = np.dstack([scene((30, 41), seed) for seed in range(3)])
    save("in.png", colours)
    for by in ("sensing.h5", "model.h5"):
        run("sense", by, "in.png", "--force")
        assert "8 measurements of a block, 88 blocks in each of 3 channels" in run.errors
    run("reconstruct", "model.h5", "measurements.h5", "-o", "out.png")
    model, found = Reconstructor.load("model.h5"), np.asarray(Image.open("out.png"))
    assert found.shape == (30, 41, 3)
    for channel in range(3):
        picture = np.rint(255 * colours[..., channel]) / 255
        expected = model.reconstruct(model.sensing.measure(picture), (30, 41))
        np.testing.assert_allclose(found[..., channel], np.clip(255 * expected, 0, 255), atol=0.51)
    assert "cuista-reconstructor" in run("info", "model.h5")
    run("plot", "model.h5", "-o", "steps.png")


def test_a_picture_of_16_bits_keeps_its_depth(prepared):
    run, model = prepared, Reconstructor.load("model.h5")
    picture = np.rint(65535 * scene((12, 9))).astype(np.uint16)
    Image.fromarray(picture).save("in.png")
    run("sense", "model.h5", "in.png")
    run("reconstruct", "model.h5", "measurements.h5", "-o", "out.png")
    found = np.asarray(Image.open("out.png"))
    assert found.dtype == np.uint16
    expected = model.reconstruct(model.sensing.measure(picture / 65535), (12, 9))
    np.testing.assert_allclose(found, np.clip(65535 * expected, 0, 65535), atol=0.51)


def test_the_paper_recipe_tries_no_ridges_for_learned_matrices(prepared):
    run = prepared
    short = ("--max-steps", 1, "--validation-batch", 8, "-T", 1, "--recipe", "paper")
    run("train", "patches.h5", "--problem", "sensing.h5", "--net", "lista", *short, "-o", "paper.h5")
    assert "Ridge" not in run.errors
    assert Reconstructor.load("paper.h5").weight.report.ridge == 0
    assert "the means of blocks alone are at least as good" in run.errors  # thresholds have hardly begun to fall


def test_measurements_from_elsewhere_are_reconstructed_in_their_units(prepared):
    run, model = prepared, Reconstructor.load("model.h5")
    picture = scene((30, 41), 7)
    y = 255 * model.sensing.measure(picture)
    np.save("y.npy", y)
    run("reconstruct", "model.h5", "y.npy", "--shape", "30x41", "--white", 255, "-o", "out.png")
    expected = np.clip(model.reconstruct(y / 255, (30, 41)), 0, 1)
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), np.rint(255 * expected))
    np.save("t.npy", y.T)
    run("reconstruct", "model.h5", "t.npy", "--columns", "--shape", "30×41", "--white", 255, "-o", "out.png", "--force")
    np.testing.assert_array_equal(np.asarray(Image.open("out.png")), np.rint(255 * expected))
    for scale, file in ((1, "bright.png"), (1e-5, "dark.png")):
        np.save("other.npy", scale * y)
        run("reconstruct", "model.h5", "other.npy", "--shape", "30x41", "-o", file)
        assert "If the measurements are in other units, give --white" in run.errors


def test_seams_are_removed_after_training(prepared, folder):
    run = prepared
    run("prepare-images", folder, "--split", "3,1,2", "-o", "images.h5")
    words = ("train", "patches.h5", "--problem", "sensing.h5", *TRAIN, "--deblock", "images.h5")
    run(*words, "-o", "smooth.h5")
    assert "Removing seams between blocks reduces the error of the validation pictures by" in run.errors
    run(*words, "-o", "smooth.h5", "--resume")
    assert "Removing seams" not in run.errors
    run(*words, "-o", "model.h5", "--resume")  # trained without it
    assert "Removing seams" in run.errors
    for file in ("smooth.h5", "model.h5"):
        assert Reconstructor.load(file).deblocking.shape == (144, 16)
    run("prepare-images", folder, "--split", "0,0,3", "-o", "test.h5")
    run(*words[:-1], "test.h5", "-o", "n.h5", fails=1)
    assert "test.h5 has no pictures for train" in run.errors
    table = run("test", "smooth.h5", "model.h5", "--images", "test.h5")
    assert "smooth dB" in table
    assert "model SSIM" in table
    run("convert", "smooth.h5", "a.mat")
    assert "the map against seams between blocks is not exported" in run.errors
    np.testing.assert_array_equal(storage.load_array("a.mat", "Phi"), Reconstructor.load("smooth.h5").sensing.Phi)


def test_a_map_that_gains_nothing_is_left_out(prepared, folder, monkeypatch):
    run = prepared
    run("prepare-images", folder, "--split", "3,1,2", "-o", "images.h5")
    nothing = lambda sensing, training, validation, each: (np.zeros((144, 16)), 0.0)  # noqa: E731
    monkeypatch.setattr("cuista.tasks.sensing.fit_deblocking", nothing)
    run("train", "patches.h5", "--problem", "sensing.h5", *TRAIN, "--deblock", "images.h5", "-o", "m.h5")
    assert "no map reduces the error" in run.errors
    assert Reconstructor.load("m.h5").deblocking is None


def test_an_interruption_at_the_seams_keeps_the_network(prepared, folder, monkeypatch):
    run = prepared
    run("prepare-images", folder, "--split", "3,1,2", "-o", "images.h5")
    words = ("train", "patches.h5", "--problem", "sensing.h5", *TRAIN, "--deblock", "images.h5", "-o", "m.h5")
    with monkeypatch.context() as during:
        during.setattr("cuista.tasks.sensing.fit_deblocking", lambda *arguments: signal.raise_signal(signal.SIGINT))
        run(*words, fails=130)
    assert "The network is in m.h5: the same command with --resume goes on with the seams." in run.errors
    run(*words, "--resume")
    assert Reconstructor.load("m.h5").deblocking is not None


def test_a_matrix_is_computed_from_patches_and_learned(prepared):
    run = prepared
    run("gen-problem", "--task", "cs", "--dict", "dictionary.h5", "--m", 6, "--principal", "patches.h5", "-o", "p.h5")
    computed = Sensing.load("p.h5")
    np.testing.assert_allclose(computed.Phi @ computed.Phi.T, np.eye(6), atol=1e-12)
    options = ("--net", "lista-cpss", "--learn-sensing", *TRAIN)
    run("train", "patches.h5", "--problem", "p.h5", *options, "-o", "learned.h5")
    again = run("train", "patches.h5", "--problem", "p.h5", *options, "-o", "learned.h5", "--resume")
    assert "ridge" not in again
    model = Reconstructor.load("learned.h5")
    assert model.sensing.sha256 != computed.sha256
    save("in.png", scene((4, 12)))
    run("sense", "learned.h5", "in.png")
    run("reconstruct", "learned.h5", "measurements.h5", "-o", "out.png")
    run("sense", "p.h5", "in.png", "--force")
    run("reconstruct", "learned.h5", "measurements.h5", "-o", "no.png", fails=1)
    assert "was measured with another Φ" in run.errors


def test_a_matrix_of_your_own_measures(prepared, rng):
    run = prepared
    np.save("Phi.npy", rng.standard_normal((6, 16)))
    run("gen-problem", "--task", "cs", "--dict", "dictionary.h5", "--sensing", "Phi.npy", "-o", "own.h5")
    assert "6 measurements of each block of 4×4 (37.5 %), 24 atoms" in run.errors
    assert "the means of blocks do not follow from this Φ exactly" in run.errors
    np.testing.assert_array_equal(Sensing.load("own.h5").Phi, np.load("Phi.npy"))
    np.savez("D.npz", atoms=rotate(Sensing.load("own.h5").dictionary.D).reshape(16, 24), other=np.eye(3))
    run("gen-problem", "--task", "cs", "--dict", "D.npz", "--key", "atoms", "--m", 6, "-o", "from-atoms.h5")
    made = Sensing.load("from-atoms.h5")
    assert made.dictionary.sha256 == Sensing.load("own.h5").dictionary.sha256
    assert made.M == 6


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ("gen-problem --task cs --dict dictionary.h5 --rate 0.5 --m 3 -o p.h5", 2, "--rate and --m each say"),
        ("gen-problem --task cs --dict dictionary.h5 --rate 0.01 -o p.h5", 1, "expected 2 to 16 (--m, --rate)"),
        ("gen-problem --task cs --dict dictionary.h5 --principal sensing.h5 -o p.h5", 1, "expected cuista-patches"),
        (
            "gen-problem --task cs --dict dictionary.h5 --principal patches.h5 --sensing Phi.npy -o p.h5",
            2,
            "each give Φ",
        ),
        ("train patches.h5 --problem sensing.h5 --learn-sensing -o n.h5", 1, "alista cannot learn Φ; expected one of"),
        (
            "gen-problem --task cs --dict wide.npy --principal patches.h5 -o p.h5",
            1,
            "has patches of 4×4 pixels, and a block has 6×6",
        ),
        (
            "train patches.h5 --problem sensing.h5 --deblock pictures -o n.h5",
            1,
            "pictures: it is a folder; give a file",
        ),
        ("test model.h5 other-model.h5 --images test.h5", 1, "other-model and the other models are for different Φ"),
        ("gen-problem --task cs --dict D.npz --key B -o p.h5", 1, "D.npz"),
        ("gen-problem --task cs -o p.h5", 2, "give --dict, or the size of the blocks by --block"),
        ("gen-problem --task cs --dict D.npz --block 4 -o p.h5", 2, "one of them"),
        ("gen-problem --task cs --block 4 --key D -o p.h5", 2, "--key names an array in the file of --dict"),
        ("learn-dict patches.h5 --filters 5 -o n.h5", 2, "--filters: patches.h5 has patches"),
        ("train --task cs patches.h5 -o n.h5", 2, "give --problem (cuista gen-problem --task cs makes one)"),
        ("train --task cs sensing.h5 --problem sensing.h5 -o n.h5", 1, "expected cuista-patches"),
        ("train --task cs patches.h5 --problem sensing.h5 --net hyperlista --batch 3 -o n.h5", 2, "has no gradients"),
        ("train --task cs patches.h5 --problem sensing.h5 --crop 3 -o n.h5", 2, "--crop is for conv-csc"),
        ("reconstruct model.h5 y.npy -o n.png", 1, "not the shape of the picture: give it (--shape)"),
        ("reconstruct model.h5 y.npy --shape 8 -o n.png", 2, "expected a value like 480x640"),
        ("reconstruct model.h5 y.npy --shape 8x16 -o n.png", 1, "expected 2×4 = 8"),
        ("reconstruct model.h5 y.npy --shape 4x12 -o n.xyz", 1, "no known ending"),
        ("reconstruct model.h5 m.h5 --shape 4x12 -o n.png", 2, "--shape is for measurements from elsewhere"),
        ("reconstruct model.h5 other.h5 -o n.png", 1, "was measured with another Φ"),
        ("reconstruct model.h5 dictionary.h5 -o n.png", 1, "expected cuista-measurements"),
        ("sense dictionary.h5 in.png", 1, "expected cuista-sensing or cuista-reconstructor"),
        ("sense sensing.h5 dictionary.h5 -o n.h5", 1, "dictionary.h5 is an HDF5 file; expected a picture"),
        ("learn-dict sensing.h5 -o n.h5", 1, "expected cuista-images or cuista-patches"),
    ],
)
def test_mistakes_are_said_in_one_line(prepared, words, status, text):
    np.save("y.npy", np.zeros((3, 8)))
    np.save("Phi.npy", np.zeros((3, 16)))
    np.save("wide.npy", np.eye(36))
    if "other-model" in words:
        prepared("gen-problem", "--task", "cs", "--dict", "dictionary.h5", "--seed", 1, "-o", "s2.h5")
        prepared("train", "patches.h5", "--problem", "s2.h5", *TRAIN, "-o", "other-model.h5")
        prepared("prepare-images", "pictures", "--split", "0,0,3", "-o", "test.h5")
    np.savez("D.npz", atoms=np.eye(16), other=np.eye(3))
    save("in.png", scene((4, 12)))
    prepared("sense", "sensing.h5", "in.png", "-o", "m.h5")
    prepared("gen-problem", "--task", "cs", "--dict", "dictionary.h5", "--rate", 0.5, "--seed", 1, "-o", "s1.h5")
    prepared("sense", "s1.h5", "in.png", "-o", "other.h5")
    prepared(*words.split(), fails=status)
    assert text in prepared.errors, prepared.errors


def test_measurements_are_a_file_of_their_own(tmp_path, rng):
    sensing, form = sensed(), Form(12, white=3000.0, profile=bytes(range(256)) * 300, resolution=(300.0, 150.0, 2))
    measured = Measurements(rng.standard_normal((1, 6, 8)), (8, 12), form, sensing.measuring_sha256)
    measured.save(tmp_path / "y.h5")
    loaded = Measurements.load(tmp_path / "y.h5", sensing)
    assert (loaded.shape, loaded.form) == ((8, 12), form)
    np.testing.assert_array_equal(loaded.y, measured.y)
