"""Classical solvers for complex numbers, several snapshots and groups."""

from __future__ import annotations

import numpy as np
import pytest

import cuista
from cuista.errors import InputError
from cuista.ops.joint import Joint
from cuista.solvers.classical import GAP, Amp, Fista, Ista, Lasso, Omp
from cuista.solvers.newton import polish

SCALES = 10 ** np.random.default_rng(5).uniform(-6, 6, 40)
# The numbers of entries: real or complex, how many snapshots, and how many neighbours.
FORMS = [(complex, 1, 1), (float, 3, 1), (complex, 3, 1), (float, 1, 2), (complex, 2, 2)]
on_forms = pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form[0].__name__}-{form[1]}-{form[2]}")


def joint_problem(form, M=20, N=40, columns=None, **law):
    dtype, snapshots, group = form
    A = cuista.normalize_columns(cuista.random_matrix(M, N, seed=1, dtype=dtype))
    A = A if columns is None else A * columns
    return cuista.Problem(A, **{"pnz": 0.1, "seed": 1, **law}, snapshots=snapshots, group=group)


def steering(sensors, angles):
    """The responses of a uniform array, which are nearly alike for neighbouring angles."""
    return np.exp(1j * np.pi * np.arange(sensors)[:, None] * np.linspace(-1, 1, angles))


def entries(x, group):
    """The numbers of each entry of one sample's codes (N,) or (L, N), as a vector: (N/G, L·G)."""
    x = np.atleast_2d(x)
    return x.reshape(len(x), -1, group).transpose(1, 0, 2).reshape(x.shape[1] // group, -1)


def magnitudes(x, group):
    return np.linalg.norm(entries(x, group), axis=1)


def joint_objective(A, y, x, lam, group):
    return 0.5 * np.linalg.norm(y - x @ A.T) ** 2 + lam * magnitudes(x, group).sum()


@on_forms
@pytest.mark.parametrize("share", [0.2, 0.005])
def test_joint_entries_minimise_the_objective_of_the_matrix_as_it_is(form, share, rng):
    problem = joint_problem(form, columns=10 ** rng.uniform(-1, 1, 40), snr_db=30.0)
    A, group = problem.given, form[2]
    _, y = problem.sample(5, dtype=np.float64)
    lam = share * np.median([magnitudes(sample @ A.conj(), group).max() for sample in y])
    for kind in (Fista, Ista):
        found = kind(problem, lam=lam).solve(y)
        assert found.converged.all()
        for sample, code, residual in zip(y, found.x, found.residual, strict=True):
            r = sample - code @ A.T
            x, c = entries(code, group), entries(r @ A.conj(), group)
            m, most = np.linalg.norm(x, axis=1), np.linalg.norm(c, axis=1).max()
            on = m > 1e-3 * m.max()
            # Aᴴr is λ x/|x| on the support, and within λ elsewhere (Karush, Kuhn, Tucker).
            np.testing.assert_allclose(c[on], lam * x[on] / m[on, None], atol=0.02 * lam)
            assert most <= 1.01 * lam
            # The dual objective at a feasible multiple of the residual is a lower bound of the minimum.
            least, dual = joint_objective(A, sample, code, lam, group), min(1, lam / most) * r
            assert least - ((dual.conj() * sample).real.sum() - 0.5 * np.linalg.norm(dual) ** 2) <= 1.1e-7 * least
            assert residual == pytest.approx(np.linalg.norm(r) / np.linalg.norm(sample), rel=1e-6)


@on_forms
def test_the_gap_of_joint_entries_bounds_what_is_missing(form):
    problem = joint_problem(form)
    _, y = problem.sample(10, dtype=np.float64)

    def objectives(x):
        return np.array([joint_objective(problem.A, *pair, 0.05, form[2]) for pair in zip(y, x, strict=True)])

    least = objectives(Fista(problem, 3000, lam=0.05, dtype=np.float64).recover(y))
    for kind, iterations in ((Ista, 3), (Ista, 30), (Fista, 30), (Fista, None)):
        found = kind(problem, iterations, lam=0.05, dtype=np.float64).solve(y)
        reached = objectives(found.x)
        assert np.all(reached - least <= found.gap * reached * (1 + 1e-9) + 1e-14)
        np.testing.assert_array_equal(found.converged, found.gap <= GAP)


@on_forms
def test_a_percentage_is_a_share_of_the_largest_magnitude(form):
    problem = joint_problem(form, columns=SCALES)
    _, y = problem.sample(8, dtype=np.float64)
    y = y[y.reshape(8, -1).any(axis=1)]
    assert not Fista(problem, lam="100.001%").recover(y).any()
    assert Fista(problem, lam="99.9%").recover(y).reshape(len(y), -1).any(axis=1).all()


@on_forms
def test_a_noise_level_of_joint_entries_is_that_of_a_number(form, rng):
    problem, sigma = joint_problem(form, columns=10 ** rng.uniform(-1, 1, 40)), 0.02
    A, group, numbers = problem.given, form[2], 20 * form[1]
    _, y = problem.sample(4, dtype=np.float64)
    y = y + sigma * np.sqrt(numbers) * y / np.linalg.norm(y.reshape(4, -1), axis=1).reshape(4, *[1] * (y.ndim - 1))
    y[0] *= 1e-6  # less than the noise
    found = Fista(problem, noise_level=sigma).solve(y)
    assert found.converged.all()
    assert not found.x[0].any()
    for code, measured in zip(found.x[1:], y[1:], strict=True):
        r = measured - code @ A.T
        assert np.linalg.norm(r) == pytest.approx(sigma * np.sqrt(numbers), rel=2e-6)
        z, c = entries(code, group), entries(r @ A.conj(), group)
        m, lam = np.linalg.norm(z, axis=1), np.linalg.norm(c, axis=1).max()
        on = m > 1e-3 * m.max()
        np.testing.assert_allclose(c[on], lam * z[on] / m[on, None], atol=1e-2 * lam)
    pursued = Omp(problem, noise_level=sigma).solve(y)
    assert pursued.converged.all()
    assert not pursued.x[0].any()


@pytest.mark.parametrize("snapshots", [1, 4])
def test_columns_that_are_nearly_alike_do_not_keep_fista_from_its_end(snapshots):
    problem = cuista.Problem(steering(20, 120), pnz=0.03, snr_db=20.0, seed=1, snapshots=snapshots)
    _, y = problem.sample(4, dtype=np.float64)
    assert not Fista(problem, 1000, lam="1%", dtype=np.float64).solve(y).converged.all()
    found = Fista(problem, lam="1%").solve(y)
    assert found.converged.all()
    assert found.gap.max() <= GAP


@on_forms
def test_polishing_goes_downhill_to_the_minimum_on_a_support(form):
    problem, joint = joint_problem(form), Joint(form[1], form[2])
    _, y = problem.sample(3, dtype=np.float64)
    lam, columns = 0.05, np.ascontiguousarray(problem.A.T)
    ends = Fista(problem, 3000, lam=lam, dtype=np.float64).recover(y)
    for sample, end, start in zip(y, ends, Ista(problem, 30, lam=lam, dtype=np.float64).recover(y), strict=True):
        before = joint_objective(problem.A, sample, start, lam, form[2])
        shape = (form[1], -1)
        polished = polish(columns, sample.reshape(shape), np.full(40 // form[2], lam), start.reshape(shape), joint)
        polished = polished.reshape(start.shape)
        assert joint_objective(problem.A, sample, polished, lam, form[2]) <= before
        assert not (magnitudes(polished, form[2]) > 0)[magnitudes(start, form[2]) == 0].any()
        near = end * 1.01
        again = polish(columns, sample.reshape(shape), np.full(40 // form[2], lam), near.reshape(shape), joint)
        np.testing.assert_allclose(again.reshape(end.shape), end, atol=1e-8)


@pytest.mark.parametrize("kind", [Ista, Fista, Omp])
def test_a_real_matrix_given_as_a_complex_one_recovers_alike(kind, small_problem):
    other = cuista.Problem(small_problem.A.astype(complex), pnz=0.05, seed=1)
    _, y = small_problem.sample(8, dtype=np.float64)
    lam = {"lam": 0.05} if kind.has_lam else {}
    for how in ({"iterations": 20, **lam}, lam):
        expected, found = (kind(problem, **how, dtype=np.float64).recover(y) for problem in (small_problem, other))
        assert found.dtype == np.complex128
        np.testing.assert_allclose(found, expected, atol=1e-12 if "iterations" in how else 1e-3)
        assert np.abs(found.imag).max() < 1e-12


@pytest.mark.parametrize("kind", [Ista, Fista, Omp])
def test_a_snapshot_of_zeros_changes_nothing(kind, small_problem):
    both = cuista.Problem(small_problem.A, pnz=0.05, seed=1, snapshots=2)
    _, y = small_problem.sample(8, dtype=np.float64)
    how = {"iterations": 20, **({"lam": 0.05} if kind.has_lam else {})}
    found = kind(both, **how, dtype=np.float64).recover(np.stack([y, 0 * y], axis=1))
    np.testing.assert_allclose(found[:, 0], kind(small_problem, **how, dtype=np.float64).recover(y), atol=1e-12)
    assert not found[:, 1].any()


@on_forms
@pytest.mark.parametrize("kind", [Ista, Fista, Amp, Omp])
def test_codes_turn_as_the_measurements_do(form, kind, rng):
    """Snapshots may be mixed by a unitary matrix, which is a phase for one complex snapshot."""
    problem, L = joint_problem(form, M=40, N=80), form[1]
    _, y = problem.sample(5, dtype=np.float64)
    U = np.linalg.qr(rng.standard_normal((L, L)) + (1j * rng.standard_normal((L, L)) if form[0] is complex else 0))[0]

    def turned(array):
        return (U @ array.reshape(5, L, -1)).reshape(array.shape)

    lam = {Amp: {"lam": 1.5 * np.sqrt(L * form[2])}, Omp: {}}.get(kind, {"lam": 0.05})
    solver = kind(problem, 15, **lam, dtype=np.float64)
    np.testing.assert_allclose(solver.recover(turned(y)), turned(solver.recover(y)), atol=1e-9)


@on_forms
@pytest.mark.parametrize("kind", [Ista, Fista, Amp, Omp])
def test_solvers_of_joint_entries_are_free_of_units(form, kind):
    problem, other = joint_problem(form, pnz=0.05), joint_problem(form, columns=SCALES, pnz=0.05)
    x, y = problem.sample(4, dtype=np.float64)
    lam = {} if kind is Omp else {"lam": 1.3 * np.sqrt(form[1] * form[2])} if kind is Amp else {"lam": "2%"}
    solver = kind(problem, **lam)
    expected = solver.recover(y)
    np.testing.assert_allclose(solver.recover(y[0]), expected[0], atol=1e-6)
    assert np.square(np.abs(expected - x)).sum() < 0.1 * np.square(np.abs(x)).sum()
    assert not solver.recover(0 * y).any()
    for scale in (1e-29, 1e29):
        np.testing.assert_allclose(solver.recover(scale * y) / scale, expected, rtol=1e-6, atol=1e-9)
    tuned, scaled = kind(problem), kind(other)
    if kind.has_lam:
        tuned.lam = scaled.lam = 0.05 if kind is not Amp else lam["lam"]
    np.testing.assert_allclose(scaled.recover(y) * SCALES, tuned.recover(y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("form", "iterations"), [*((form, 10) for form in FORMS), ((complex, 2, 2), None)], ids=str)
def test_lambda_is_tuned_for_joint_entries_as_for_others(form, iterations):
    problem = joint_problem(form, snr_db=20.0)
    x, y = problem.sample(100, dtype=np.float64)

    def error(lam):
        return cuista.metrics.estimate_nmse_db(Fista(problem, iterations, lam=lam * scale).recover(y), x)

    solver = Fista(problem, iterations)
    solver.tune()
    # A tuned λ is for measurements of the norm that the problem predicts.
    scale = np.linalg.norm(y.reshape(100, -1), axis=1).mean() / problem.unit
    tuned = cuista.metrics.estimate_nmse_db(solver.recover(y), x)
    assert tuned <= min(error(solver.lam * factor) for factor in (0.25, 0.5, 2, 4)) + 0.3
    alone = Fista(cuista.Problem(problem.A, pnz=0.1, snr_db=20.0, seed=1), iterations)
    assert (solver.tuned_for == alone.tuned_for) == (problem.joint == alone.joint)


def test_message_passing_uses_the_derivatives_of_thresholding(rng):
    """The Onsager term has the derivatives (Wirtinger's for complex numbers) by central differences."""
    step = 1e-6
    for dtype, L, G in [*FORMS, (complex, 3, 2)]:
        problem = joint_problem((dtype, L, G), M=10, N=12)
        solver, joint, theta = Amp(problem, 1, lam=1.0, dtype=np.float64), problem.joint, 0.9

        def random(*shape, dtype=dtype):
            return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype is complex else 0)

        def soft(z, joint=joint, theta=theta):
            m = joint.spread(np, joint.magnitudes(np, z), z)
            return np.maximum(1 - theta / m, 0) * z

        z, v, B = random(L, 12), random(L, 10), np.zeros((L, L), dtype)
        divergence, phases = 0.0, [1.0, 1j] if dtype is complex else [1.0]
        for snapshot in range(L):
            for column in range(12):
                for phase in phases:
                    dz = np.zeros_like(z)
                    dz[snapshot, column] = step * phase
                    change = (soft(z + dz) - soft(z - dz))[:, column] / (2 * step)
                    B[:, snapshot] += np.conj(phase) * change / len(phases) / 10
                    divergence += (np.conj(phase) * change[snapshot]).real
        x, thetas = soft(z), np.full((1, 1), theta)
        np.testing.assert_allclose(solver._onsager(x, v, thetas), B @ v, atol=1e-8)
        m = joint.magnitudes(np, z)
        d = L * G * len(phases)
        assert divergence == pytest.approx(np.sum(np.where(m > theta, d - (d - 1) * theta / m, 0)), abs=1e-6)


@on_forms
def test_message_passing_knows_its_own_error(form):
    """‖v‖₂/√M is the standard deviation of x + Aᴴv − x*, as the theory of state evolution has it."""
    dtype, L, G = form
    A = cuista.normalize_columns(cuista.random_matrix(150, 300, seed=2, dtype=dtype))
    problem = cuista.Problem(A, pnz=0.1, seed=1, snapshots=L, group=G)
    x, y = problem.sample(20, dtype=np.float64)
    solver = Amp(problem, 5, lam=1.2 * np.sqrt(L * G), dtype=np.float64)
    scaled, factors = solver._scaled(y)
    truth = x.reshape(-1, 300) / np.repeat(factors, L, axis=0)
    v = scaled
    for found, _ in solver._iterations(scaled, 5):
        theta = solver.lam * np.sqrt(solver._energies(v)[:, None] / (L * 150))
        v = scaled - found @ A.T + solver._onsager(found, v, theta)
        error = np.linalg.norm(found + v @ A.conj() - truth) / np.sqrt(truth.size)
        assert np.linalg.norm(v) / np.sqrt(v.size) == pytest.approx(error, rel=0.06)


@pytest.mark.parametrize("snapshots", [1, 3])
@pytest.mark.parametrize("kind", ["complex", "real"])
def test_pursuit_recovers_supports_of_up_to_half_of_the_inverse_coherence(snapshots, kind, rng):
    """With k < (1 + 1/μ)/2, OMP must be right, with several snapshots too (Tropp, IEEE Trans. Inf. Theory 2004)."""
    from scipy.linalg import hadamard

    M = 64
    second = np.fft.fft(np.eye(M)) if kind == "complex" else hadamard(M)
    problem = cuista.Problem(np.hstack([np.eye(M), second / 8]), snapshots=snapshots)  # coherence 1/8
    for _ in range(20):
        support = rng.choice(2 * M, 4, replace=False)
        x = np.zeros((snapshots, 2 * M), problem.A.dtype)
        x[:, support] = 10 ** rng.uniform(-2, 0, 4) * rng.standard_normal((snapshots, 4))
        x = x * np.exp(1j * rng.uniform(0, 6, x.shape)) if kind == "complex" else x
        x = x if snapshots > 1 else x[0]
        solution = Omp(problem, 4).solve((x @ problem.A.T)[None])
        assert solution.converged.all()
        np.testing.assert_allclose(solution.x[0], x, atol=1e-10)


@on_forms
def test_pursuit_chooses_entries_by_their_magnitude(form, rng):
    problem, G = joint_problem(form, M=40, N=80), form[2]
    x, y = problem.sample(10, dtype=np.float64)
    found = Omp(problem).solve(y)
    assert found.converged.all()
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    one = Omp(problem, 1).recover(y)
    for code, sample in zip(one, y, strict=True):
        m = magnitudes(code, G)
        if sample.any():
            assert np.flatnonzero(m).tolist() == [np.argmax(magnitudes(sample @ problem.A.conj(), G))]


def test_pursuit_leaves_columns_out_that_depend_on_the_chosen_ones():
    A = cuista.normalize_columns(cuista.random_matrix(12, 24, seed=1, dtype=complex))
    A[:, 3] = 1j * A[:, 2]  # a group of two columns that differ by a phase
    problem = cuista.Problem(A, group=2)
    x = np.zeros(24, complex)
    x[[2, 8, 9]] = 1, 2j, -1
    found = Omp(problem).solve((x @ A.T)[None])
    assert found.converged.all()
    np.testing.assert_allclose(found.x[0] @ A.T, x @ A.T, atol=1e-9)
    assert np.flatnonzero(np.abs(found.x[0]) > 1e-9).tolist() == [2, 8, 9]


@on_forms
def test_what_is_for_single_real_numbers_only_is_refused(form):
    problem = joint_problem(form)
    with pytest.raises(InputError, match="use fista, which converges to the same minimum"):
        Lasso(problem, lam=0.1)
    for kind in (Ista, Fista, Amp, Omp):
        with pytest.raises(InputError, match="leave positive out"):
            kind(problem, positive=True)


def test_complex_measurements_of_a_real_matrix_are_refused(small_problem):
    with pytest.raises(InputError, match="is complex"):
        Fista(small_problem, lam=0.1).solve(np.ones((2, 20), complex))


@pytest.mark.parametrize("kind", [Ista, Fista, Amp])
@pytest.mark.parametrize("form", [(complex, 1, 1), (complex, 2, 2)], ids=["single", "joint"])
def test_joint_solvers_on_a_gpu_agree_with_those_on_the_cpu(kind, form, cuda):
    problem = joint_problem(form)
    _, y = problem.sample(5, dtype=np.float64)
    hows = [{"iterations": 20}, {}] if kind is Amp else [{"iterations": 20}, {}, {"noise_level": 0.01}]
    for how in hows:
        found = []
        for ops in (None, cuda):
            solver = kind(problem, ops=ops, dtype=np.float64, **how)
            if solver.tunes:
                solver.lam = 0.05 if kind is not Amp else 2.5
            found.append(solver.solve(y))
        for expected, actual in zip(*found, strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-4)
