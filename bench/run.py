"""One bench run: a bundle against its teacher, on one study and one machine, under a policy declared beforehand."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec

from medfm_compress.bench.build_report import Results, build_report
from medfm_compress.bench.evaluate.attribution_agreement import load_explanations
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.kinds import check_policy
from medfm_compress.bench.evaluate.mask_evaluation import MaskOptions
from medfm_compress.bench.evaluate.perturb import perturbed_study
from medfm_compress.bench.evaluate.prediction_flips import write_flips
from medfm_compress.bench.evaluate.robustness import PerturbedTables, conditions
from medfm_compress.bench.evaluate.subprocess_inference import (
    Processes,
    Scratch,
    evaluate_model,
    image_files,
)
from medfm_compress.bench.evaluate.test_set_log import LoggedEvaluation, log_evaluation
from medfm_compress.bench.external_models import external_model
from medfm_compress.bench.gate.gate import judge
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import BATCHES, ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.latency_regression import Slowdown, measure_slowdown
from medfm_compress.bench.measure.load_run import run_scenario
from medfm_compress.bench.measure.load_scenario import ScenarioResult
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.models import (
    Calibration,
    TeacherRef,
    check_names,
    decided,
    teacher_model,
    unavailable_variants,
    variant_models,
)
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.render.html.gallery import write_gallery
from medfm_compress.bench.render.html.mask_gallery import write_mask_gallery
from medfm_compress.bench.render.html.page import render_html
from medfm_compress.bench.report import Report, save_report
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.perturbation import MOVING
from medfm_compress.bench.types.policy import ExplanationLimits, Policy
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.bundle.bundle import Bundle, utc_date
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.scratch_folder import scratch_folder

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"

_DEFAULT_OPTIONS = BenchOptions()


def bench_bundle(
    bundle_path: str | Path,
    teacher: TeacherRef,
    study: Study,
    policy: LoadedPolicy,
    out_dir: str | Path,
    options: BenchOptions = _DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Report:
    """Evaluate, measure and compare; write ``report.json`` and ``report.html`` into ``out_dir``.

    The evaluation is logged in ``test-evaluations.jsonl`` there, with the policy's hash, before it begins.

    Raises:
        InputError: nothing to measure, or a model that cannot run.
        BundleRefused: the bundle is damaged.
        StudyError: no labelled case in the split, or other labels than the models have.
    """
    progress, out = progress or no_progress, Path(out_dir)
    bundle, cases = Bundle.open(bundle_path), study.labelled_split(options.split)
    explained = load_explanations(out, model_digest=bundle.model_digest, teacher=teacher.identity)  # refused now
    if policy.policy.explanations != ExplanationLimits() and not explained:
        progress(f"the policy limits explanations, and none is in {out}: the gate will miss them; run 'explain' first")
    check_policy(policy.policy, bundle.manifest.task)
    left_out = unavailable_variants(bundle, options.targets)
    for name, reason in left_out.items():
        progress(f"left out {name}: {reason}")
    machine, fingerprint = describe_machine(), study_fingerprint(study)
    files = image_files(study, cases, options.files)
    with scratch_folder("medfm-engines-") as engines, _map_folder(study) as maps:
        masks = MaskOptions(policy.policy.masks, maps)
        chosen = variant_models(bundle, options.plan.threads, options.targets, files, engines)
        variants = tuple(model for model in chosen if model.name not in left_out)
        externals = tuple(
            _external_model(path, bundle, options.plan.threads, files) for path in options.external_models
        )
        check_names([*variants, *externals, *options.others])
        with scratch_folder("medfm-bench-") as temporary, Processes() as processes:
            folder = Scratch(temporary, options.cache_dir or temporary, processes)
            calibration = Calibration(bundle.manifest, study, fingerprint, options.plan, folder, progress)
            candidate, rule = decided(teacher_model(teacher, files), calibration)
            externals = tuple(decided(external, calibration).model for external in externals)
            log_evaluation(out, _log_entry(bundle, policy, fingerprint, options.split, len(cases)))
            evaluations = [
                _only_columns(evaluate_model(model, study, cases, options.plan, folder, progress, masks), policy.policy)
                for model in (candidate, *variants, *externals)
            ]
            perturbed = evaluate_perturbed(
                (candidate, *variants), study, cases, policy.policy, (options.plan, folder), progress
            )
        others = [msgspec.structs.replace(other, files=files) for other in options.others]
        batches = BATCHES if options.batch_sweep else ()
        measurements = measure([candidate, *variants, *externals, *others], options.plan, progress, batches)
        scenarios = run_scenarios((candidate, *variants), options, progress)
        slowdowns = measure_slowdowns(bundle, options, progress, left_out)
        progress("compare")
        results = Results(
            bundle=bundle,
            policy=policy,
            teacher_name=teacher.name,
            study_fingerprint=fingerprint,
            split=options.split,
            machine=machine,
            models=(candidate, *variants, *externals),
            teacher_decides=rule,
            external_models=tuple(external.name for external in externals),
            evaluations=tuple(evaluations),
            measurements=measurements,
            scenarios=scenarios,
            slowdowns=slowdowns,
            left_out=left_out,
            perturbed=perturbed,
        )
        report = build_report(results, out)
        local = write_case_files(out, study, bundle.manifest.image_spec, evaluations, maps)
        write_report(report, out, local)
        return report


@contextlib.contextmanager
def _map_folder(study: Study) -> Iterator[Path | None]:
    """A folder for label maps while a bench of a segmentation lasts; None for any other."""
    if study.kind != "segmentation":
        yield None
        return
    with scratch_folder("medfm-maps-") as folder:
        yield folder


def evaluate_perturbed(
    models: Sequence[ModelUnderTest],
    study: Study,
    cases: tuple[Case, ...],
    policy: Policy,
    means: tuple[Plan, Scratch],
    progress: Progress,
) -> tuple[PerturbedTables, ...]:
    """Tables of ``models`` on ``cases`` under every condition of ``policy``; the columns stay with the clean tables.

    Args:
        models: the teacher and the variants.
        study: where the images come from.
        cases: labelled ones.
        policy: names the conditions.
        means: threads and time-out, and folders.
        progress: told what begins.
    """
    plan, folders = means
    tables = []
    for perturbation, severity in conditions(policy):
        progress(f"evaluate under {perturbation} of severity {severity}")
        altered = perturbed_study(study, perturbation, severity)
        with tempfile.TemporaryDirectory(dir=folders.temporary) as scratch:
            folder = Scratch(Path(scratch), Path(scratch), folders.processes)
            masks = MaskOptions(policy.masks, fit=perturbation not in MOVING)
            evaluations = [evaluate_model(model, altered, cases, plan, folder, progress, masks) for model in models]
        bare = [msgspec.structs.replace(evaluation, subgroups={}) for evaluation in evaluations]
        tables.append(
            PerturbedTables(
                perturbation=perturbation,
                severity=severity,
                evaluations=tuple(map(EvaluationTable.from_evaluation, bare)),
            )
        )
    return tuple(tables)


def _only_columns(evaluation: Evaluation, policy: Policy) -> Evaluation:
    """Without the columns of the study that ``policy`` does not name: they may identify, and reports travel."""
    kept = {name: values for name, values in evaluation.subgroups.items() if name in policy.study_columns}
    return msgspec.structs.replace(evaluation, subgroups=kept)


def _external_model(path: Path, bundle: Bundle, threads: int, files: tuple[str, ...]) -> ModelUnderTest:
    manifest = bundle.manifest
    external = external_model(path, manifest.image_spec, manifest.task, threads, manifest.told)
    return msgspec.structs.replace(external, files=files)


def run_scenarios(
    models: Sequence[ModelUnderTest], options: BenchOptions, progress: Progress
) -> tuple[ScenarioResult, ...]:
    """Every scenario of ``options`` on every model, one after the other; raises like `load.run_scenario`."""
    plan = msgspec.structs.replace(options.load, threads=options.plan.threads)
    return tuple(
        run_scenario(model, scenario, options.harness, plan, progress)
        for scenario in options.scenarios
        for model in models
    )


def measure_slowdowns(
    bundle: Bundle, options: BenchOptions, progress: Progress, left_out: Collection[str] = ()
) -> tuple[Slowdown, ...]:
    """Each variant against the one of the same name in ``options.baseline``; nothing without a baseline.

    Those named in ``left_out`` cannot run here.

    Raises:
        InputError: the two bundles have no variant in common.
    """
    if options.baseline is None:
        return ()
    earlier = Bundle.open(options.baseline)
    old = {model.name: model for model in variant_models(earlier, options.plan.threads)}
    chosen = variant_models(bundle, options.plan.threads, options.targets)
    new = [model for model in chosen if model.name not in left_out]
    both = [model for model in new if model.name in old]
    if not both:
        raise InputError(
            f"{options.baseline} has no variant of this bundle; it has {', '.join(old)}, this one "
            f"{', '.join(model.name for model in new)}"
        )
    return tuple(
        measure_slowdown(
            old[model.name], model, options.plan, options.pairs, progress, baseline_digest=earlier.model_digest
        )
        for model in both
    )


def write_case_files(
    folder: Path, study: Study, spec: ImageSpec, evaluations: Sequence[Evaluation], maps: Path | None = None
) -> tuple[str, ...]:
    """Write ``flips.csv`` and ``gallery.html``, which name cases and show images, and must stay at home.

    ``maps`` is where label maps were kept, of a segmentation.

    Returns the names of those that there was something to write for.
    """
    teacher, *others = evaluations
    gallery = write_gallery(folder, study, spec, teacher, others)
    if maps is not None:
        gallery = write_mask_gallery(folder, study, (teacher, *others), maps)
    written = write_flips(folder, teacher, others), gallery
    return tuple(path.name for path in written if path)


def _log_entry(bundle: Bundle, policy: LoadedPolicy, fingerprint: str, split: str, cases: int) -> LoggedEvaluation:
    return LoggedEvaluation(
        date=utc_date(),
        split=split,
        cases=cases,
        policy_sha256=policy.sha256,
        model_digest=bundle.model_digest,
        study_fingerprint=fingerprint,
    )


def write_report(report: Report, out_dir: str | Path, local_files: Sequence[str] = ()) -> None:
    """Write ``report.json`` and, with the gate's verdict on it, ``report.html``, which links to ``local_files``."""
    save_report(report, Path(out_dir) / REPORT_JSON)
    write_atomically(Path(out_dir) / REPORT_HTML, render_html(report, judge(report), local_files).encode())
