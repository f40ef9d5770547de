"""The generator: the same text everywhere, and verdicts that follow from the words."""

import hashlib
import itertools
import re

import pytest

from cloud.text.reports import BAD, GOOD, ReportDials, ReportWriter, rng_of

TEXT_SHA256 = "f06a9bc2471f75c251b6c2638c0adacd9ab5a7ea1d5ff56d65e8746d1a8cf890"
HARD = ReportDials(
    clauses_max=3,
    negation=0.3,
    contrast=0.5,
    invented_words=20,
    invented_share=0.5,
    invented_nouns=9,
)


def test_text_is_bit_identical_everywhere():
    reports = ReportWriter("mixed20", HARD, seed=0).write(200, rng_of("vector"))
    text = "\n".join(f"{r.label} {r.text}" for r in reports)
    assert hashlib.sha256(text.encode()).hexdigest() == TEXT_SHA256


def test_last_clause_and_negation_decide_the_verdict():
    writer = ReportWriter("known", ReportDials(clauses_max=3, negation=0.4, contrast=0.5), seed=3)
    for report in writer.write(500, rng_of(1)):
        clauses = re.split(r" (?:and|but) ", report.text)
        signs = [(c.split()[-1] in GOOD) != (" not " in c) for c in clauses]
        assert signs[-1] == bool(report.label), report.text
        joints = re.findall(r" (and|but) ", report.text)
        for joint, (left, right) in zip(joints, itertools.pairwise(signs), strict=True):
            assert (left != right) == (joint == "but"), report.text


def test_dials_set_shares():
    reports = ReportWriter("d", HARD, seed=0).write(2000, rng_of(2))
    clauses = [c for r in reports for c in re.split(r" (?:and|but) ", r.text)]
    # Binomial, 4 sigma: about 4000 clauses and 1333 reports that have room for a "but".
    assert sum(" not " in c for c in clauses) / len(clauses) == pytest.approx(0.3, abs=0.03)
    assert sum(c.split()[-1] not in {*GOOD, *BAD} for c in clauses) / len(clauses) == pytest.approx(
        0.5, abs=0.032
    )
    several = [r for r in reports if re.search(r" (?:and|but) ", r.text)]
    assert sum(" but " in r.text for r in several) / len(several) == pytest.approx(0.5, abs=0.055)
    assert sum(r.label for r in reports) / len(reports) == pytest.approx(0.5, abs=0.045)


@pytest.mark.slow
def test_invented_words_differ_between_domains_and_follow_zipf():
    dials = ReportDials(invented_words=40, invented_share=1.0, zipf=1.0)
    found = [
        {r.text.split()[-1] for r in ReportWriter(d, dials, 0).write(3000, rng_of(5))}
        for d in ("a", "b")
    ]
    assert len(found[0]) == len(found[1]) == 40
    assert not found[0] & found[1]
    counts = sorted(
        (
            sum(
                r.text.endswith(" " + w) for r in ReportWriter("a", dials, 0).write(3000, rng_of(5))
            )
            for w in found[0]
        ),
        reverse=True,
    )
    # The first of 20 words of one polarity has the share 1 / H(20) = 0.278 of it.
    assert counts[0] / 3000 == pytest.approx(0.278 / 2, abs=0.03)
