"""Which candidate ships, and the reason of every other one; sessions are played, the judging is real."""

import json
from functools import partial

import numpy as np
import pytest
import tiny_study

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization import candidate_search
from medfm_compress.compress.quantization import fidelity as judge
from medfm_compress.compress.quantization.budget import Budget
from medfm_compress.compress.quantization.candidate_search import Group, search_candidates
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits
from medfm_compress.compress.quantization.final_choice import choose_variants
from medfm_compress.compress.quantization.kinds.validation_set import ValidationSet
from medfm_compress.compress.quantization.methods import DoesNotApply, Method
from medfm_compress.compress.quantization.nncf_settings import MISSING, NncfSettings
from medfm_compress.compress.quantization.preference import contenders
from medfm_compress.export.build import Export, make_variant
from medfm_compress.runtime.errors import BundleRefused, InputError, ModelError
from medfm_compress.runtime.sessions.protocol import SessionInfo


class PlayedSession:
    """Logits are a fixed function of the case, off by ``noise``; ``ms`` is what the played clock says."""

    input_names, output_names = ("image",), ("logits",)

    def __init__(self, ms, noise):
        self.ms, self.noise = ms, noise
        self.info = SessionInfo(backend="openvino", version="1", provider="CPU", precision="int8", threads=1)

    def run(self, inputs):
        mean = float(inputs["image"].mean())
        return {"logits": np.array([[0.0, mean + self.noise * np.sin(1e3 * mean)]], dtype=np.float32)}


class PlayedBuilder:
    """Plans: method name → (ms, noise), or an exception."""

    def __init__(
        self,
        plans,
        smooths=True,
        ranked=("a", "b", "c"),
        trained=False,
        nncf=MISSING,
        skewed=True,
        placements=("default", "attention"),
    ):
        self.plans, self._smooths, self._ranked, self.trained = plans, smooths, ranked, trained
        self.skewed, self._placements = skewed, placements
        self.nncf = lambda backend: nncf

    def placements(self, backend):
        return self._placements

    def smooths(self):
        return self._smooths

    def divides(self):
        return False

    def is_skewed(self, backend):
        return self.skewed

    def most_harmful(self, backend, method):
        return self._ranked

    def build(self, backend, method, deadline):
        plan = self.plans.get(str(method), (5.0, 0.5))
        if isinstance(plan, Exception):
            raise plan
        return (json.dumps(plan).encode(),)


def played_ms(sessions, image, rounds):
    """What the clock of this process says without any noise."""
    return [[session.ms] * 5 for session in sessions]


@pytest.fixture
def validation(monkeypatch):
    study = tiny_study.make_study()
    random = np.random.default_rng(0)
    cases = study.split("val")
    inputs = random.standard_normal((len(cases), 1, 4, 4)).astype(np.float32)
    inputs += np.array([case.target[0] for case in cases], np.float32).reshape(-1, 1, 1, 1) * 2

    def open_played(variant, contents, threads):
        return Export(variant=variant, contents=contents, session=PlayedSession(*json.loads(contents[0])))

    monkeypatch.setattr(candidate_search, "open_export", open_played)
    monkeypatch.setattr(candidate_search, "session_ms", played_ms)
    return ValidationSet(study=study, cases=cases, inputs=inputs, task=tiny_study.TASK)


def measured(trials, fresh_ms=None):
    """What fresh processes would say: the played latency, unless ``fresh_ms`` has another for the trial's name."""
    return [
        Measurement(
            name=str(number),
            target="played",
            session_ms=((fresh_ms or {}).get(trial.name, trial.export.session.ms),) * 20,
            calls_per_round=2,
        )
        for number, trial in enumerate(trials)
    ]


def search(
    validation,
    plans,
    *,
    error=0.05,
    budget=60.0,
    floats=(),
    rests=("fp32",),
    symmetric=False,
    backend="openvino",
    weight_bits=0,
    **builder,
):
    """The attempts on one target, and the limits."""
    variant = make_variant(backend, "fp32")
    reference = CandidateTrial(
        name="fp32", variant=variant, export=Export(variant=variant, contents=(), session=PlayedSession(10.0, 0.0))
    )
    group = Group(
        reference=reference,
        floats=tuple(lambda trial=trial: trial for trial in floats),
        rests=rests,
        variant=lambda method: make_variant(backend, "int8"),
        symmetric=symmetric,
    )
    limits = Limits(
        error=error,
        accuracy_drop=0.02,
        rounds=5,
        threads=1,
        budget=Budget(budget),
        weight_bits=weight_bits,
        nncf="nncf" in builder,
    )
    return search_candidates(group, PlayedBuilder(plans, **builder), validation, limits, lambda text: None), limits


def without_companions(number, best, reference):
    return ()


def run(validation, plans, *, fresh_ms=None, **options):
    attempts, limits = search(validation, plans, **options)
    timer = partial(measured, fresh_ms=fresh_ms)
    (attempts,) = choose_variants([attempts], without_companions, timer, limits)
    return {attempt_name(attempt): attempt for attempt in attempts}


def attempt_name(attempt):
    return attempt.candidate if isinstance(attempt, DoesNotApply) else attempt.name


def kept(tried):
    return [name for name, trial in tried.items() if isinstance(trial, CandidateTrial) and trial.kept]


def test_the_fastest_within_the_limits_ships(validation):
    tried = run(validation, {"int8-minmax": (4.0, 0.01), "int8-attention+minmax": (3.0, 0.03)})
    assert kept(tried) == ["int8-attention+minmax"]
    assert tried["int8-minmax"].reason == "ranked behind those that fresh processes timed: int8-attention+minmax"
    assert tried["int8-attention+minmax"].speedup == pytest.approx(10 / 3)


def test_of_nearly_equal_latencies_the_most_faithful_ships(validation):
    tried = run(validation, {"int8-minmax": (4.0, 0.03), "int8-attention+minmax": (4.1, 0.005)})
    assert kept(tried) == ["int8-attention+minmax"]


def test_a_faster_placement_that_misses_the_limit_gets_numbers_of_its_own(validation):
    slow = {"int8-minmax": (4.0, 0.001), "int8-attention+minmax": (3.0, 0.2)}  # minmax is best for the slow placement
    assert kept(run(validation, slow)) == ["int8-minmax"]
    tried = run(validation, {**slow, "int8-attention+mse+smoothquant": (3.0, 0.01)})
    assert kept(tried) == ["int8-attention+mse+smoothquant"]
    assert "int8-attention+mse+smoothquant+bias-correction" not in tried  # within the limit, nothing is missed
    level = {**slow, "int8-attention+minmax": (3.95, 0.2)}  # no faster within noise
    assert "int8-attention+mse+smoothquant" not in run(validation, level)


def test_a_noisy_clock_changes_nothing_of_what_ships(validation, monkeypatch):
    """The whole search, with a clock that is off by up to a third and drifts between the candidates."""
    plans = {
        "int8-minmax": (4.0, 0.03),
        "int8-attention+minmax": (4.1, 0.02),
        "int8-attention+percentile": (4.1, 0.005),
    }
    shipped = set()
    for seed in range(12):
        random = np.random.default_rng(seed)

        def noisy_ms(sessions, image, rounds, random=random):
            machine = random.uniform(0.7, 1.4)  # of these minutes: it meets FP32 and the candidate alike
            return [[s.ms * machine * random.uniform(0.9, 1.25) for _ in range(7)] for s in sessions]

        monkeypatch.setattr(candidate_search, "session_ms", noisy_ms)
        tried = run(validation, plans)
        shipped |= set(kept(tried))
        reasons = " ".join(trial.reason for trial in tried.values() if isinstance(trial, CandidateTrial))
        assert kept(tried) and "fastest within the limits" in reasons
    assert shipped == {"int8-attention+percentile"}


@pytest.mark.parametrize("ms", [4.0, 7.0])
@pytest.mark.parametrize("seed", range(8))
def test_a_machine_with_two_speeds_that_fp32_hardly_feels_changes_nothing(validation, monkeypatch, seed, ms):
    """INT8 takes twice as long for a while, FP32 a fifth longer: 7 ms are then 14 beside 12."""
    random, timings = np.random.default_rng(seed), []

    def two_speeds_ms(sessions, image, rounds):
        timings.append(len(timings) > 2 and random.random() < 0.5)  # the first candidate is timed at full speed
        return [[s.ms * (1 if not timings[-1] else 1.2 if s.ms == 10.0 else 2.0)] * 7 for s in sessions]

    monkeypatch.setattr(candidate_search, "session_ms", two_speeds_ms)
    tried = run(validation, {"int8-minmax": (ms, 0.01), "int8-attention+minmax": (0.9 * ms, 0.02)})
    assert kept(tried) == ["int8-attention+minmax"]


def test_a_tie_is_said_of_both(validation):
    tried = run(validation, {"int8-minmax": (4.0, 0.03), "int8-attention+minmax": (4.1, 0.005)})
    assert "level within noise with int8-minmax" in tried["int8-attention+minmax"].reason
    assert "level within noise with int8-attention+minmax" in tried["int8-minmax"].reason


def test_unfaithful_and_slow_candidates_are_refused_with_a_reason(validation):
    tried = run(validation, {"int8-minmax": (12.0, 0.01), "int8-attention+minmax": (3.0, 0.4)})
    assert kept(tried) == []
    assert tried["int8-minmax"].reason == "not faster than FP32 on the measuring machine"
    assert "above the limit 0.05" in tried["int8-attention+minmax"].reason


def test_what_is_clearly_slower_is_not_compared_and_says_so(validation):
    tried = run(validation, {"int8-minmax": (2.0, 0.01), "int8-attention+minmax": (9.0, 0.0)})
    slow = tried["int8-attention+minmax"]
    assert not slow.kept and np.isnan(slow.error)
    assert slow.reason == "slower than int8-minmax, so its logits were not compared"


def test_a_fall_of_auroc_refuses_what_the_logits_allow(validation, monkeypatch):
    monkeypatch.setattr(
        candidate_search, "fidelity", lambda logits, fp32_logits, validation: judge.Fidelity(0.01, 0.03)
    )
    tried = run(validation, {"int8-minmax": (4.0, 0.0)})
    assert kept(tried) == [] and "AUROC falls by 0.03" in tried["int8-minmax"].reason


def test_what_cannot_be_opened_does_not_stop_the_search(validation):
    tried = run(validation, {"int8-minmax": BundleRefused("no kernel"), "int8-percentile": (4.0, 0.01)})
    assert kept(tried) == ["int8-percentile"] and tried["int8-minmax"].reason == "cannot be run: no kernel"


def test_a_float_precision_may_win(validation):
    variant = make_variant("openvino", "bf16")
    session = Export(variant=variant, contents=(), session=PlayedSession(2.0, 0.01))
    floats = (
        CandidateTrial(name="bf16", variant=variant, export=session),
        DoesNotApply(candidate="fp16", reason="not here"),
    )
    tried = run(validation, {"int8-minmax": (4.0, 0.01)}, floats=floats)
    assert kept(tried) == ["bf16"] and tried["fp16"].reason == "not here"


@pytest.mark.parametrize(
    ("budget", "order"),
    [
        (60.0, ["fp32", "int8-minmax", "int8-bf16-minmax", "bf16", "int8-mse"]),
        (-1.0, ["fp32", "int8-minmax", "bf16", "further candidates"]),
    ],
)
def test_float_precisions_come_behind_the_first_files_and_always(validation, budget, order):
    variant = make_variant("openvino", "bf16")
    bf16 = CandidateTrial(
        name="bf16",
        variant=variant,
        export=Export(variant=variant, contents=(), session=PlayedSession(5.0, 0.001)),
    )
    plans = {"int8-minmax": (4.0, 0.01), "int8-bf16-minmax": (4.1, 0.02)}
    tried = run(validation, plans, floats=(bf16,), rests=("fp32", "bf16"), budget=budget)
    assert list(tried)[: len(order)] == order


@pytest.fixture
def bf16():
    variant = make_variant("openvino", "bf16")
    export = Export(variant=variant, contents=(), session=PlayedSession(5.0, 0.001))
    return CandidateTrial(name="bf16", variant=variant, export=export)


def test_where_zero_points_cost_time_the_first_candidates_do_without_them(validation, bf16):
    plans = {"int8-balanced-symmetric+minmax": (4.0, 0.01), "int8-symmetric+minmax": (3.0, 0.01)}
    tried = run(validation, plans, floats=(bf16,), symmetric=True)
    assert list(tried)[:4] == ["fp32", "int8-balanced-symmetric+minmax", "int8-symmetric+minmax", "bf16"]
    assert "int8-attention+symmetric+minmax" in tried and kept(tried) == ["int8-symmetric+minmax"]
    assert "int8-minmax" not in tried
    same = run(validation, plans, floats=(bf16,), symmetric=True, skewed=False)
    assert list(same)[2:4] == ["int8-symmetric", "bf16"] and "skewed" in same["int8-symmetric"].reason


def test_trained_ranges_hold_for_the_levels_that_they_were_trained_with(validation, bf16):
    options = {"floats": (bf16,), "symmetric": True, "trained": True, "placements": ("default",)}
    tried = run(validation, {"int8-trained": (4.0, 0.01)}, **options)
    assert list(tried)[1:4] == ["int8-trained", "bf16", "int8-calibrated"]
    missed = run(validation, {"int8-symmetric+minmax": (3.0, 0.01)}, **options)
    assert list(missed)[1:5] == ["int8-trained", "bf16", "int8-balanced-symmetric+minmax", "int8-symmetric+minmax"]
    assert kept(missed) == ["int8-symmetric+minmax"] and "int8-symmetric+trained" not in missed


@pytest.mark.parametrize("budget", [60.0, -1.0])
def test_zero_points_come_back_where_nothing_without_them_may_ship(validation, monkeypatch, budget):
    """Whatever limit is missed: here that on AUROC alone, of everything but `int8-minmax` and what builds on it."""
    fidelity = candidate_search.fidelity

    def falls(logits, fp32_logits, validation):
        found = fidelity(logits, fp32_logits, validation)
        return found if found[0] < 0.01 else judge.Fidelity(0.02, 0.03)

    monkeypatch.setattr(candidate_search, "fidelity", falls)
    plans = {"int8-minmax": (4.0, 0.001), "int8-mse": (4.0, 0.02), "int8-balanced-symmetric+minmax": (4.0, 0.02)}
    tried = run(validation, plans, symmetric=True, budget=budget)
    assert kept(tried) == ["int8-minmax"] and "AUROC falls" in tried["int8-balanced-symmetric+minmax"].reason


def test_layers_are_excluded_until_the_limits_are_met(validation):
    plans = {"int8-minmax+without-1-layers": (4.0, 0.2), "int8-minmax+without-2-layers": (4.5, 0.02)}
    tried = run(validation, {"int8-minmax": (4.0, 0.3), **plans})
    assert kept(tried) == ["int8-minmax+without-2-layers"]


def test_without_time_one_int8_candidate_is_tried(validation):
    tried = run(validation, {"int8-minmax": (4.0, 0.01)}, budget=-1.0)
    assert list(tried) == ["fp32", "int8-minmax", "further candidates"] and kept(tried) == ["int8-minmax"]


def test_the_fastest_is_a_finalist_however_many_are_level_within_noise():
    def trial(name, method, pace, error):
        interval = Interval(estimate=pace, low=pace / 2, high=pace * 2)
        return CandidateTrial(
            name=name, method=method, variant=make_variant("openvino", "int8"), pace=interval, error=error
        )

    running = [
        trial("int8", Method(), 1.0, 0.011),
        trial("int8-symmetric", Method(symmetric="all"), 0.9, 0.012),
        trial("int8-bf16", Method(rest="bf16"), 0.85, 0.013),
        trial("bf16", None, 0.95, 0.002),
        trial("fp16", None, 1.04, 0.001),
        trial("far", Method(placement="byte-sums"), 1.3, 0.01),
    ]
    names = [trial.name for trial in contenders(running)]
    assert names == ["fp16", "int8-bf16", "int8-symmetric"]
    assert contenders([]) == []


def test_networks_out_of_the_running_are_freed(validation):
    attempts, _ = search(validation, {"int8-minmax": (4.0, 0.01)})
    finalists = [trial.name for trial in attempts if isinstance(trial, CandidateTrial) and trial.export is not None]
    assert "int8-minmax" in finalists and len(finalists) <= 4 and "int8-mse" not in finalists


def test_logits_that_are_not_finite_are_never_kept(validation):
    tried = run(validation, {"int8-minmax": (1.0, float("nan"))}, smooths=False)
    assert kept(tried) == [] and "inf" in tried["int8-minmax"].reason


def test_case_logits_keep_the_order_of_the_cases(validation):
    session = PlayedSession(1.0, 0.0)
    logits = judge.case_logits(session, validation.inputs)
    assert np.allclose(logits[:, 1], validation.inputs.mean(axis=(1, 2, 3)), atol=1e-6)


def test_nncf_ships_where_its_placement_is_faster_within_the_limits(validation):
    plans = {"int8-minmax": (4.0, 0.01), "int8-nncf+histogram": (3.0, 0.4)}
    better = {"int8-nncf+histogram+accurate-bias-correction": (3.0, 0.02)}
    assert kept(run(validation, {**plans, **better}, nncf=NncfSettings())) == list(better)
    assert kept(run(validation, {**plans, **better})) == ["int8-minmax"]


@pytest.mark.parametrize("ms", [4.6, 3.9])
def test_no_more_is_asked_of_nncf_where_its_placement_is_no_faster(validation, ms):
    tried = run(validation, {"int8-minmax": (4.0, 0.01), "int8-nncf+histogram": (ms, 0.02)}, nncf=NncfSettings())
    asked = [name for name, attempt in tried.items() if "nncf" in name and isinstance(attempt, CandidateTrial)]
    assert asked == ["int8-nncf+histogram"]
    assert "no faster" in tried["int8-nncf, others"].reason


def test_nncf_is_asked_for_more_where_its_own_would_ship(validation):
    plans = {"int8-minmax": (4.0, 0.03), "int8-nncf+histogram": (3.9, 0.02)}
    better = {"int8-nncf+histogram+accurate-bias-correction": (3.9, 0.01)}
    assert kept(run(validation, {**plans, **better}, nncf=NncfSettings())) == list(better)


def test_without_nncf_the_others_go_on_and_it_is_said_how_to_install_it(validation):
    tried = run(validation, {"int8-minmax": (4.0, 0.01)}, nncf=MISSING)
    assert kept(tried) == ["int8-minmax"] and "pip install" in tried["int8-nncf"].reason


def test_what_nncf_cannot_quantize_does_not_stop_the_search(validation):
    plans = {"int8-nncf+histogram": ModelError("NNCF does not quantize it: no"), "int8-minmax": (4.0, 0.3)}
    tried = run(validation, {**plans, "int8-minmax+without-2-layers": (4.5, 0.02)}, nncf=NncfSettings())
    assert kept(tried) == ["int8-minmax+without-2-layers"]
    assert tried["int8-nncf+histogram"].reason == "cannot be run: NNCF does not quantize it: no"
    assert [name for name in tried if "nncf" in name] == ["int8-nncf+histogram"]


def test_accuracy_control_comes_last_and_only_while_the_limits_are_missed(validation):
    plans = {"int8-nncf+histogram": (4.0, 0.4), "int8-nncf+histogram+accuracy-control": (5.0, 0.02)}
    tried = run(validation, plans, nncf=NncfSettings())
    assert kept(tried) == ["int8-nncf+histogram+accuracy-control"]
    met = run(validation, {**plans, "int8-minmax": (4.0, 0.01)}, nncf=NncfSettings())
    assert met["int8-nncf+accuracy-control"].reason == "the limits are met without it"


def test_of_weights_alone_the_smallest_ships_and_of_equal_ones_the_most_faithful(validation):
    plans = {"int4-weights": (12.0, 0.01111), "int4-weights-nncf": (11.0, 0.03)}
    data = {"int4-weights-nncf+awq+scale-estimation": (11.0, 0.02), "int4-weights-nncf+gptq": (11.0, 0.4)}
    tried = run(validation, {**plans, **data}, nncf=NncfSettings(), weight_bits=4, floats=())
    assert kept(tried) == ["int4-weights-nncf+awq+scale-estimation"]
    assert "above the limit" in tried["int4-weights-nncf+gptq"].reason


def test_what_opens_and_does_not_run_is_refused(validation, monkeypatch):
    class Broken(PlayedSession):
        def run(self, inputs):
            raise InputError("scale must be 1D")

    def open_broken(variant, contents, threads):
        ms, noise = json.loads(contents[0])
        kind = Broken if ms == 3.0 else PlayedSession
        return Export(variant=variant, contents=contents, session=kind(ms, noise))

    monkeypatch.setattr(candidate_search, "open_export", open_broken)
    tried = run(validation, {"int8-minmax": (3.0, 0.01), "int8-mse": (4.0, 0.01)})
    assert kept(tried) == ["int8-mse"] and tried["int8-minmax"].reason == "cannot be run: scale must be 1D"
