"""Fresh processes have the last word: on what ships, what stands beside it, and the order of all variants."""

from __future__ import annotations

import msgspec
import pytest

from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization.budget import Budget
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial, Limits
from medfm_compress.compress.quantization.final_choice import WHY_OPTIMISED, WHY_PORTABLE, choose_variants
from medfm_compress.compress.quantization.final_timing import LEAST_ROUNDS, final_plan
from medfm_compress.compress.quantization.methods import DoesNotApply, Method
from medfm_compress.export.build import Export, make_variant

LIMITS = Limits(error=0.05, accuracy_drop=0.02, rounds=40, threads=1, budget=Budget(0.0))


def trial(name: str, ms: float, *, backend: str = "openvino", error: float = 0.01, **fields) -> CandidateTrial:
    """A trial that the search timed at ``ms``, FP32 at 10."""
    variant = make_variant(backend, "fp32" if name == "fp32" else "int8")
    export = Export(variant=variant, contents=(), session=None)
    return CandidateTrial(
        name=name, variant=variant, export=export, p50_ms=ms, speedup=10.0 / ms, error=error, **fields
    )


class Timer:
    """Plays fresh processes: latencies by backend and name, two calls a round; keeps what each run timed."""

    def __init__(self, latencies: dict[str, float], spread: float = 0.0) -> None:
        self.latencies, self.spread = latencies, spread
        self.runs: list[list[str]] = []

    def __call__(self, trials):
        self.runs.append([f"{trial.variant.backend} {trial.name}" for trial in trials])
        return [
            Measurement(name=name, target="played", session_ms=self._samples(self.latencies[name]), calls_per_round=2)
            for name in self.runs[-1]
        ]

    def _samples(self, ms: float) -> tuple[float, ...]:
        signs = (1, -1) if ms < 10 else (-1, 1)
        return tuple(ms * (1 + self.spread * sign) for sign in signs for _ in range(2)) * 10


def no_companions(number, best, reference):
    return ()


def choose(searches, timer, companions=no_companions):
    return choose_variants(searches, companions, timer, LIMITS)


def kept(attempts) -> list[str]:
    return [attempt.name for attempt in attempts if isinstance(attempt, CandidateTrial) and attempt.kept]


def test_what_wins_in_this_process_and_loses_in_fresh_ones_does_not_ship() -> None:
    timer = Timer({"openvino fp32": 10.0, "openvino fast-here": 11.0, "openvino second": 6.0})
    (attempts,) = choose([(trial("fp32", 10.0), trial("fast-here", 4.0), trial("second", 7.0))], timer)
    assert kept(attempts) == ["second"]
    fp32, lost, won = attempts
    assert lost.reason == "not faster than FP32 on the measuring machine"
    assert lost.speedup == pytest.approx(10 / 11)
    assert lost.speedup_interval.estimate == lost.speedup
    assert (won.p50_ms, won.speedup) == (6.0, pytest.approx(10 / 6))
    assert won.reason == "fastest within the limits"
    assert fp32.speedup_interval is None


def test_an_interval_that_reaches_one_is_not_faster() -> None:
    timer = Timer({"openvino fp32": 10.0, "openvino int8": 9.8}, spread=0.2)
    (attempts,) = choose([(trial("fp32", 10.0), trial("int8", 5.0))], timer)
    assert kept(attempts) == []
    assert attempts[1].speedup_interval.low < 1 < attempts[1].speedup_interval.high


def test_all_targets_are_timed_in_one_run_and_the_search_does_not_order_them() -> None:
    latencies = {"openvino fp32": 10.0, "openvino int8": 5.0, "onnxruntime fp32": 12.0, "onnxruntime int8": 4.0}
    timer = Timer(latencies)
    openvino = (trial("fp32", 10.0), trial("int8", 2.0), DoesNotApply(candidate="bf16", reason="not here"))
    onnxruntime = (trial("fp32", 10.0, backend="onnxruntime"), trial("int8", 6.0, backend="onnxruntime"))
    targets = choose([openvino, onnxruntime], timer)
    assert timer.runs == [list(latencies)]
    assert [target[1].p50_ms for target in targets] == [5.0, 4.0]
    assert targets[0][2] == openvino[2]


def test_what_was_not_timed_again_is_given_on_the_scale_of_the_run() -> None:
    timer = Timer({"openvino fp32": 20.0, "openvino int8": 8.0})
    attempts = (trial("fp32", 10.0), trial("int8", 4.0), trial("unfaithful", 2.5, error=0.5))
    (attempts,) = choose([attempts], timer)
    assert attempts[2].p50_ms == pytest.approx(5.0)
    assert attempts[2].speedup_interval is None
    assert "above the limit" in attempts[2].reason


def test_without_a_finalist_nothing_is_timed() -> None:
    timer = Timer({})
    (attempts,) = choose([(trial("fp32", 10.0), trial("slow", 12.0))], timer)
    assert timer.runs == []
    assert kept(attempts) == []


def optimised(number: int, best: CandidateTrial, reference: CandidateTrial):
    return (
        msgspec.structs.replace(best, name=f"{best.name}+optimised", companion_of=best.name),
        msgspec.structs.replace(best, name=f"{best.name}+reduced", companion_of=best.name, method=Method(reduced=True)),
    )


def test_companions_stand_beside_their_candidate_and_are_timed_with_it() -> None:
    names = ("fp32", "int8", "int8+optimised", "int8+reduced")
    timer = Timer(dict(zip((f"openvino {name}" for name in names), (10.0, 5.0, 4.5, 6.0), strict=True)))
    (attempts,) = choose([(trial("fp32", 10.0), trial("int8", 5.0))], timer, optimised)
    assert timer.runs == [[f"openvino {name}" for name in names]]
    assert kept(attempts) == ["int8", "int8+optimised", "int8+reduced"]
    assert [attempt.is_fallback for attempt in attempts[1:]] == [True, False, True]
    reasons = [f"fastest within the limits; {WHY_PORTABLE}", WHY_OPTIMISED]
    assert [attempt.reason for attempt in attempts[1:3]] == reasons


def test_another_winner_gets_companions_of_its_own_and_the_order_comes_from_one_more_run() -> None:
    names = ("fp32", "here", "fresh", "here+optimised", "here+reduced", "fresh+optimised", "fresh+reduced")
    timer = Timer(dict(zip((f"openvino {name}" for name in names), (10.0, 8.0, 3.0, 8.0, 8.5, 2.0, 4.0), strict=True)))
    (attempts,) = choose([(trial("fp32", 10.0), trial("here", 4.0), trial("fresh", 5.0))], timer, optimised)
    assert kept(attempts) == ["fresh", "fresh+optimised", "fresh+reduced"]
    assert timer.runs[1] == [f"openvino {name}" for name in ("fp32", "fresh", "fresh+optimised", "fresh+reduced")]
    reasons = {attempt.name: attempt.reason for attempt in attempts}
    assert reasons["here"] == "slower than fresh in fresh processes"
    assert reasons["here+optimised"] == "what it would stand beside does not ship"


def test_a_companion_with_an_objection_is_neither_timed_nor_kept() -> None:
    def slow(number, best, reference):
        return (msgspec.structs.replace(best, name="lesser", companion_of=best.name, reason="not faster there"),)

    timer = Timer({"openvino fp32": 10.0, "openvino int8": 5.0})
    (attempts,) = choose([(trial("fp32", 10.0), trial("int8", 5.0))], timer, slow)
    assert kept(attempts) == ["int8"]
    assert attempts[2].reason == "not faster there"


@pytest.mark.parametrize(
    ("ms", "rounds", "budget_s", "expected"),
    [(1.0, 40, 300.0, 40), (1.0, 5, 300.0, LEAST_ROUNDS), (1.0, 40, 0.0, LEAST_ROUNDS), (1000.0, 40, 300.0, 30)],
)
def test_rounds_fit_into_the_budget(ms: float, rounds: int, budget_s: float, expected: int) -> None:
    plan = final_plan([trial("fp32", ms), trial("int8", ms)], rounds, 2, budget_s)
    assert (plan.rounds, plan.threads) == (expected, 2)


def test_trials_do_not_change() -> None:
    with pytest.raises(AttributeError):
        trial("fp32", 10.0).kept = True
