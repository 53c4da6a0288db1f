"""`slth-compile rssp`: what it prints, what it writes, what it refuses, and how the picture looks."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ElementTree

import jsonschema
import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from slth_compile.lab import sample, statements
from slth_compile.lab.constants import fit_lines, requirements
from slth_compile.lab.failure import failure_rates
from slth_compile.lab.files import page
from slth_compile.lab.finding import Finding
from slth_compile.lab.laws import TargetLaw
from slth_compile.lab.plot import draw
from slth_compile.lab.question import DEFAULT_EPS, Question
from slth_compile.lab.table import finding_schema

SMALL = ("rssp", "--candidates", "4-8", "--eps", "0.1", "--eps", "0.01", "--samples", "500")


def made_up(law: str, eps: tuple[float, ...] = DEFAULT_EPS, scale: float = 2.0) -> Finding:
    """A finding whose errors shrink by `scale` for every candidate, without solving anything."""
    question = Question(
        law=law, target=TargetLaw("normal", 0.2), candidates=tuple(range(4, 25, 2)), eps=eps, samples=4000, seed=0
    )
    spread = np.sort(np.random.default_rng(0).lognormal(0, 1.5, 4000))
    errors = {n: np.floor(np.minimum(spread * scale**-n, 1) * 2.0**46).astype(np.int64) for n in question.candidates}
    rates = failure_rates(question, errors)
    medians = tuple(float(np.median(errors[n]) * 2.0**-46) for n in question.candidates)
    return Finding(question, rates, medians, fit_lines(question, rates), requirements(question, errors))


# ---------------------------------------------------------------- the command


def test_it_prints_a_table_and_what_follows(cli):
    done = cli(*SMALL)
    assert (done.code, done.err) == (0, "")
    assert "eps 0.1" in done.out
    assert "One more bit of precision costs" in done.out or "No line: fewer" in done.out
    assert "P(failure) = 50 %" in done.out


def test_json_is_one_object_and_the_same_again(cli):
    done = cli(*SMALL, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    found = json.loads(done.out)
    jsonschema.validate(found, finding_schema())
    assert [(row["candidates"], row["eps"]) for row in found["failure"]] == [
        (n, eps) for n in (4, 6, 8) for eps in (0.1, 0.01)
    ]
    assert cli(*SMALL, "--json").out == done.out
    assert json.loads(cli(*SMALL, "--json", "--seed", 1).out)["failure"] != found["failure"]


def test_every_form_is_written_and_parses(cli, tmp_path):
    paths = [tmp_path / f"plot{ending}" for ending in (".png", ".svg", ".html", ".json")]
    outputs = [word for path in paths for word in ("--output", path)]
    done = cli(*SMALL, "--quiet", *outputs)
    assert (done.code, done.err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    picture = matplotlib.image.imread(paths[0])
    assert picture.shape == (1410, 1800, 4)
    assert picture[..., :3].std() > 0.05
    assert ElementTree.parse(paths[1]).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    text = paths[2].read_text()
    assert "<script" not in text and "http://www.w3.org/1999/xlink" in text
    ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    jsonschema.validate(json.loads(paths[3].read_text()), finding_schema())
    before = [path.read_bytes() for path in paths]
    refused = cli(*SMALL, "--output", paths[0])
    assert refused.code == 2
    assert "exists already" in refused.message
    assert cli(*SMALL, "--force", "--quiet", *outputs).code == 0
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--law", "cauchy"], "expected one of product, uniform, normal, constant"),
        (["--target", "uniform:1,0"], "LO < HI"),
        (["--target", "uniform:0"], "expected uniform"),
        (["--target", "normal"], "expected uniform"),
        (["--target", "normal:0"], "SIGMA > 0"),
        (["--target", "normal:nan"], "SIGMA > 0"),
        (["--target", "17"], "nothing beyond 16"),
        (["--target", "inf"], "nothing beyond 16"),
        (["--target", "heavy"], "expected uniform"),
        (["--target", "1,2"], "expected uniform"),
        (["--candidates", "1-8"], "between 2 and 30"),
        (["--candidates", "8-4"], "between 2 and 30"),
        (["--candidates", "4-31"], "between 2 and 30"),
        (["--candidates", "4-8:"], "FIRST-LAST[:STEP]"),
        (["--candidates", "-4"], "FIRST-LAST[:STEP]"),
        (["--candidates", "٤-٨"], "FIRST-LAST[:STEP]"),
        (["--eps", "0"], "2^-40"),
        (["--eps", "1"], "2^-40"),
        (["--eps", "nan"], "2^-40"),
        (["--eps", "-0.1"], "2^-40"),
        (["--eps", "0.1", "--eps", "0.1"], "distinct"),
        (["--eps", "small"], "--eps"),
        (["--samples", "15"], "16 to 4194304"),
        (["--samples", "4194305"], "16 to 4194304"),
        (["--samples", "many"], "--samples"),
        (["--seed", "-1"], "2^64"),
        (["--seed", str(2**64)], "2^64"),
        (["--output", "plot.pdf"], "expected one of .png"),
        (["--output", "plot"], "expected one of .png"),
        (["--output", "missing/plot.png"], "no directory"),
        (["--output", "a.png", "--output", "./a.png"], "named twice"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, words, cli, tmp_path, monkeypatch):
    """Exit code 2 before anything is drawn, nothing on stdout, nothing written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "_compile", None)
    done = cli("rssp", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.message
    assert "\n" not in done.message
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the picture


@pytest.mark.parametrize(
    "finding",
    [
        made_up("product"),
        made_up("constant", scale=1.05),
        made_up("uniform", eps=(0.5, 0.1)),
        made_up("normal", eps=tuple(3.0**-k for k in range(1, 10))),
    ],
    ids=["line", "no line", "two eps", "nine eps"],
)
def test_no_words_of_the_picture_overlap_or_leave_it(finding):
    figure = draw(finding)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    boxes: dict[str, Bbox] = {text.get_text(): text.get_window_extent(renderer) for text in figure.texts}
    for number, axes in enumerate(figure.axes):
        labels = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        for text in labels:
            if text.get_text():
                boxes[f"{number} {text.get_text()} {id(text)}"] = text.get_window_extent(renderer)
    for words, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, words
    for (words, box), (others, other) in itertools.combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(other), (words, others)


def test_the_picture_says_the_finding():
    finding = made_up("product")
    line = finding.main_line
    assert line.slope == pytest.approx(1, abs=0.02)
    assert statements.headline(finding) == f"One more bit of precision costs {statements.slope(line)} random candidates"
    assert statements.headline(finding) in page(finding)
    assert statements.headline(made_up("constant", scale=1.05)).endswith("within 4 to 24 candidates")


@pytest.mark.parametrize(
    ("eps", "text"), [(0.1, "0.1"), (0.003, "0.003"), (1e-4, "1e-4"), (2.5e-5, "2.5e-5"), (1e-12, "1e-12")]
)
def test_eps_is_written_shortly(eps, text):
    assert statements.power(eps) == text
