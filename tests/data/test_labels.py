"""The order of labels, and labels that say the opposite of one another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medfm_compress.data.labels import describe_order, label_names
from medfm_compress.data.open import open_study
from medfm_compress.runtime.errors import StudyError


def table(folder: Path, words: tuple[str, ...]) -> None:
    for number in range(40):
        (folder / f"{number}.png").touch()
    rows = "\n".join(f"{number}.png,train,{words[number % len(words)]}" for number in range(40))
    (folder / "cases.csv").write_text(f"image,split,label\n{rows}\n")


@pytest.mark.parametrize(
    ("negation", "finding"),
    [
        ("non-covid", "covid"), ("Non COVID", "COVID"), ("non_covid", "covid"), ("nonsmoker", "smoker"),
        ("notumor", "tumor"), ("not melanoma", "melanoma"), ("Not_Melanoma", "Melanoma"),
        ("not a melanoma", "melanoma"), ("not fractured", "fractured"), ("unaffected", "affected"),
        ("uninfected", "Infected"), ("covid negative", "covid"), ("covid negative", "COVID positive"),
        ("Covid (negative)", "Covid (positive)"), ("HER2-", "HER2+"), ("HER2 -", "HER2 +"),
        ("HER2 (\u2212)", "HER2 (+)"), ("her2-", "her2"), ("ki67 neg", "ki67 pos"), ("without effusion", "effusion"),
        ("without effusion", "with effusion"), ("effusion absent", "effusion present"),
        ("absence of oedema", "presence of oedema"), ("negative for cancer", "cancer"), ("tumour-free", "tumour"),
        ("no evidence of disease", "disease"), ("non-malignant", "malignant"), ("no cancer", "cancer"),
        ("benign", "malignant"), ("healthy", "diabetic"), ("benign", "non-benign"), ("healthy", "unhealthy"),
        ("normal", "abnormal"), ("normal", "Not normal"), ("clear", "not clear"), ("healed", "unhealed"),
        ("differentiated", "undifferentiated"), ("CT_NonCOVID", "CT_COVID"), ("COVID-19 negative", "COVID-19"),
        ("lung without nodule", "lung with nodule"), ("skin, not melanoma", "skin, melanoma"),
        ("non-COVID-19", "COVID-19"),
        ("grass", "reed"), ("node", "nodule"), ("her2+", "her3-"), ("covid", "non-smoker"),
    ],
)  # fmt: skip
def test_the_finding_is_not_the_negation(negation: str, finding: str) -> None:
    assert label_names([finding, negation]) == label_names([negation, finding]) == (negation, finding)


def test_a_negation_is_one_beside_what_it_negates_alone() -> None:
    assert label_names(["asthma", "non-covid", "covid"]) == ("non-covid", "asthma", "covid")
    assert label_names(["asthma", "non-covid", "copd"]) == ("asthma", "copd", "non-covid")


def test_study_check_says_which_label_negates_the_other(tmp_path: Path) -> None:
    table(tmp_path, ("covid", "non-covid"))
    said = describe_order(open_study(tmp_path))
    assert said == "'non-covid' first, which says that there is no 'covid'; the finding is 'covid'"


@pytest.mark.parametrize(
    "words",
    [
        ("TRUE", "FALSE", "1", "0"), ("true", "false", "1.0"), ("yes", "no", "0", "1"), ("Y", "N", "true", "false"),
        ("Y", "true", "false"), ("T", "F", "1", "0"), ("positive", "negative", "pos", "neg"), ("yes", "1"),
        ("present", "absent", "Yes", "No"), ("Y", "N", "T", "F"), ("yes", "no", "0", "1", "2"),
    ],
)  # fmt: skip
def test_yes_and_no_in_several_ways_are_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    table(tmp_path, words)
    with pytest.raises(StudyError, match=r"the labels say yes and no in 2 ways, .*write them in one, such as 1") as at:
        open_study(tmp_path)
    counts = Counter(words[number % len(words)] for number in range(40))
    assert all(f"{word!r} ({counts[word]} cases)" in str(at.value) for word in words if word != "2")


@pytest.mark.parametrize(
    "words",
    [
        ("TRUE", "FALSE"), ("1", "0"), ("0", "1", "2", "3"), ("N", "F"), ("N", "V", "F", "S"), ("T", "N", "F"),
        ("Y", "N"), ("positive", "negative", "equivocal"), ("0", "1", "negative", "3"), ("F", "M"), ("no", "mild", "1"),
        ("T", "F", "Y", "N", "Q"),
    ],
)  # fmt: skip
def test_words_of_one_way_or_names_of_classes_are_taken(tmp_path: Path, words: tuple[str, ...]) -> None:
    table(tmp_path, words)
    assert set(open_study(tmp_path).labels) == set(words)
