"""The GitHub Action, and its script run by hand where a change makes a model worse and its policy wider."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

if not (shutil.which("bash") and shutil.which("git")):
    pytest.skip("bash or git is not installed", allow_module_level=True)

NAMES = ("gate.sh", "install.sh", "comment.sh")
STRICT = "non_inferiority: [{metric: auroc, margin: 0.05}]\nresamples: 1000\n"
WIDE = STRICT.replace("0.05", "0.9")


def git(folder: Path, *arguments: str) -> None:
    own = (
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t.invalid",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "commit.gpgsign=0",
    )
    subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True)


class Repository:
    """A clone with a policy on ``main`` and a branch that a pull request would come from."""

    def __init__(self, folder: Path, tiny: ModuleType, reports: ModuleType, script: Path) -> None:
        self.folder, self.tiny, self.reports, self.script = folder / "clone", tiny, reports, script
        self.summary, self.output = folder / "summary.md", folder / "output"
        git(folder, "init", "--bare", "-b", "main", "remote.git")
        git(folder, "clone", "remote.git", "clone")
        git(self.folder, "checkout", "-b", "main")
        tiny.bundle(self.folder / "b.medfm", (tiny.ORT,), outcome=None)
        self.commit(STRICT, "main")
        git(self.folder, "checkout", "-b", "change")

    def commit(self, policy: str | None, branch: str, **changes: float) -> None:
        """Commit a policy and a report that is made under it, and push them."""
        path = self.folder / "policy.yaml"
        path.write_text(policy or STRICT)
        self.reports.write_report(self.tiny, self.folder, **changes)
        if policy is None:
            path.unlink()
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "--allow-empty", "-m", "change")
        git(self.folder, "push", "origin", f"HEAD:{branch}")

    def gate(self, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the script as the action does."""
        environment = {
            **os.environ,
            "MEDFM_REPORT": "report.json",
            "MEDFM_BASE_REF": "main",
            "MEDFM_OUT": str(self.folder.parent / "out"),
            "MEDFM_PYTHON": sys.executable,
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
            **settings,
        }
        command = ["bash", str(self.script)]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def markdown(self) -> str:
        return (self.folder.parent / "out" / "gate.md").read_text()


@pytest.fixture
def repository(tiny: ModuleType, reports: ModuleType, tmp_path: Path, root: Path) -> Repository:
    return Repository(tmp_path, tiny, reports, root / "scripts" / "ci" / "gate.sh")


def test_a_worse_bundle_fails_and_the_comment_names_what_failed(repository: Repository) -> None:
    repository.commit(STRICT, "change", shift=1.5)
    done = repository.gate(MEDFM_BUNDLE="b.medfm")
    assert done.returncode == 1, done.stderr
    assert "## ❌ Fail: tiny" in repository.markdown
    assert "**auroc of opacity** (fail, onnxruntime-cpu-fp32)" in repository.markdown
    assert "differs from the one of main" not in repository.markdown
    assert repository.summary.read_text() == repository.markdown
    assert repository.output.read_text() == "outcome=fail\nexit-code=1\n"
    out = repository.folder.parent / "out"
    assert {"gate.xml", "gate.sarif", "judged.medfm"} <= {path.name for path in out.iterdir()}
    assert '"uri": "policy.yaml"' in (out / "gate.sarif").read_text()


def test_a_change_that_widens_its_own_margin_is_judged_by_the_base(repository: Repository) -> None:
    repository.commit(WIDE, "change", shift=1.5)
    done = repository.gate()
    assert done.returncode == 1, done.stderr
    assert "this branch's policy.yaml differs from the one of main" in done.stdout.replace("\n      ", " ")
    assert "margin 0.05: significantly worse" in repository.markdown
    assert "differs from the one of main; it was judged by the one of main" in repository.markdown


def test_a_change_that_takes_the_policy_away_is_judged_by_the_base(repository: Repository) -> None:
    repository.commit(None, "change", shift=1.5)
    assert repository.gate().returncode == 1
    assert "differs from the one of main" in repository.markdown


@pytest.mark.parametrize(
    ("changes", "code", "word"), [({"noise": 0.1}, 0, "pass"), ({"noise": 1.2}, 3, "inconclusive")]
)
def test_the_other_outcomes(repository: Repository, changes: dict[str, float], code: int, word: str) -> None:
    repository.commit(STRICT, "change", **changes)
    done = repository.gate()
    assert done.returncode == code, done.stderr
    assert f"outcome={word}\n" in repository.output.read_text()


def test_a_base_without_a_policy_is_said_and_not_judged(repository: Repository) -> None:
    repository.commit(STRICT, "change")
    git(repository.folder, "checkout", "-b", "bare", "main")
    repository.commit(None, "bare")
    git(repository.folder, "checkout", "change")
    done = repository.gate(MEDFM_BASE_REF="bare")
    assert done.returncode == 2
    assert "branch bare has no policy at policy.yaml; commit one there first" in done.stderr
    assert "⛔ Not judged" in repository.markdown and repository.summary.read_text() == repository.markdown
    assert repository.output.read_text() == "outcome=none\nexit-code=2\n"


def test_the_newest_policy_of_the_base_holds(repository: Repository, tmp_path: Path) -> None:
    """The clone's own idea of ``main`` may be old."""
    repository.commit(STRICT, "change", noise=0.1)
    git(tmp_path, "clone", "remote.git", "other")
    (tmp_path / "other" / "policy.yaml").write_text(STRICT.replace("0.05", "0.0001"))
    git(tmp_path / "other", "commit", "-am", "stricter")
    git(tmp_path / "other", "push", "origin", "main")
    assert repository.gate(MEDFM_FETCH="0").returncode == 0
    assert repository.gate().returncode == 3


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"MEDFM_REPORT": ""}, "MEDFM_REPORT is not set"),
        ({"MEDFM_REPORT": "nowhere.json"}, "there is no report at nowhere.json"),
        ({"MEDFM_REPORT": "../out/elsewhere.json"}, "leads out of the repository"),
        ({"MEDFM_BASE_REF": ""}, "MEDFM_BASE_REF is not set"),
        ({"MEDFM_BASE_REF": "nowhere"}, "branch nowhere cannot be fetched"),
        ({"MEDFM_BASE_REF": "main:refs/heads/x"}, "no branch name"),
        ({"MEDFM_BASE_REF": "--upload-pack=touch stolen"}, "no branch name"),
        ({"MEDFM_POLICY": "/etc/passwd"}, "must be a path from the root"),
        ({"MEDFM_POLICY": "$(touch stolen)"}, "has no policy at $(touch stolen)"),
        ({"MEDFM_POLICY": "'; touch stolen; '"}, "has no policy at"),
        ({"MEDFM_BUNDLE": "link.medfm"}, "leads out of the repository"),
        ({"MEDFM_REMOTE": "nobody"}, "no remote 'nobody'"),
    ],
)
def test_bad_settings_are_one_sentence_and_run_nothing(
    repository: Repository, settings: dict[str, str], lines: str
) -> None:
    (repository.folder / "link.medfm").symlink_to("/etc/hostname")
    repository.commit(STRICT, "change")
    (repository.folder.parent / "out").mkdir()
    (repository.folder.parent / "out" / "elsewhere.json").write_text("{}")
    done = repository.gate(**settings)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert lines in done.stderr
    assert not list(repository.folder.parent.rglob("stolen"))


def test_a_module_of_the_branch_does_not_stand_in_for_the_gate(repository: Repository) -> None:
    (repository.folder / "medfm_compress").mkdir()
    for name in ("medfm_compress/__init__.py", "medfm_compress/__main__.py", "yaml.py", "msgspec.py"):
        (repository.folder / name).write_text("raise SystemExit(0)\n")
    repository.commit(STRICT, "change", shift=1.5)
    assert repository.gate().returncode == 1


def test_a_python_without_the_gate_is_not_a_failed_model(repository: Repository, tmp_path: Path) -> None:
    repository.commit(STRICT, "change")
    stub = tmp_path / "python"
    stub.write_text("#!/bin/sh\necho 'No module named medfm_compress' >&2\nexit 1\n")
    stub.chmod(0o755)
    done = repository.gate(MEDFM_PYTHON=str(stub))
    assert done.returncode == 70
    assert "No module named medfm_compress" in repository.markdown


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    text = (Path(__file__).resolve().parents[2] / "action.yml").read_text()
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_no_input_reaches_a_script_but_as_an_environment_variable(action: dict[str, Any]) -> None:
    steps = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite"
    assert all(step["shell"] == "bash" and "${{" not in step["run"] for step in steps)
    supplied = " ".join(str(value) for step in steps for value in (*step["env"].values(), step.get("if", "")))
    used = set(re.findall(r"inputs\.([\w-]+)", supplied))
    assert used == set(action["inputs"])
    assert all(entry["description"] for entry in (*action["inputs"].values(), *action["outputs"].values()))


def test_every_variable_that_the_action_sets_is_one_that_the_scripts_read(action: dict[str, Any], root: Path) -> None:
    for step in action["runs"]["steps"]:
        script = re.search(r"scripts/ci/(\w+\.sh)", step["run"])
        assert script and script[1] in NAMES
        text = (root / "scripts" / "ci" / script[1]).read_text()
        for name in step["env"]:
            assert name in text or f"${name}" in step["run"], name


def test_the_workflows_in_the_docs_use_what_there_is(action: dict[str, Any], root: Path) -> None:
    text = (root / "docs" / "ci.md").read_text()
    github, gitlab = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.S))
    step = next(step for step in github["jobs"]["gate"]["steps"] if "medfm-compress@" in step.get("uses", ""))
    assert set(step["with"]) <= set(action["inputs"])
    assert set(re.findall(r"steps\.gate\.outputs\.([\w-]+)", text)) <= set(action["outputs"])
    scripts = "".join((root / "scripts" / "ci" / name).read_text() for name in NAMES)
    assert all(name in scripts for name in gitlab["gate"]["variables"])


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_sound_shell(root: Path, name: str) -> None:
    path = root / "scripts" / "ci" / name
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "set -euo pipefail" in path.read_text() and "eval" not in re.findall(r"^\s*(\w+)", path.read_text(), re.M)


@pytest.fixture
def comment(tmp_path: Path, root: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], str]]:
    """Run comment.sh with a ``gh`` that notes its arguments and knows the comments it is told of."""

    def run(known: str = "", *, fails: bool = False, **settings: str) -> tuple[subprocess.CompletedProcess[str], str]:
        gh = tmp_path / "gh"
        answer = "exit 1" if fails else f"case $* in *--paginate*) printf '%s' '{known}';; esac"
        gh.write_text(f'#!/bin/sh\necho "$*" >>"{tmp_path}/calls"\n{answer}\n')
        gh.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "GITHUB_REPOSITORY": "o/r",
            "MEDFM_PULL_REQUEST": "7",
            "MEDFM_COMMENT": "c.md",
            **settings,
        }
        script = ["bash", str(root / "scripts" / "ci" / "comment.sh")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines()[-1] if calls.exists() else ""

    return run


def test_the_comment_is_written_once_and_then_replaced(comment: Any) -> None:
    done, call = comment()
    assert done.returncode == 0
    assert "--method POST repos/o/r/issues/7/comments" in call and "body=@c.md" in call
    _, call = comment("11\n12\n")
    assert "--method PATCH repos/o/r/issues/comments/12" in call


def test_a_token_that_may_not_write_is_a_warning(comment: Any) -> None:
    done, _ = comment(fails=True)
    assert done.returncode == 0 and "::warning::" in done.stdout
    refused, _ = comment(MEDFM_PULL_REQUEST="7/../../x")
    assert refused.returncode == 2


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"MEDFM_VERSION": "0.1.0", "MEDFM_SOURCE": "x"}, "not both"),
        ({"MEDFM_VERSION": "0.1 --index-url=http://e"}, "is no version"),
    ],
)
def test_what_to_install_is_checked(root: Path, tmp_path: Path, settings: dict[str, str], lines: str) -> None:
    environment = {**os.environ, "MEDFM_VENV": str(tmp_path / "venv"), **settings}
    script = ["bash", str(root / "scripts" / "ci" / "install.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and lines in done.stderr
    assert not (tmp_path / "venv").exists()
