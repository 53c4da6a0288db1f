"""A comparison in words, tables and pictures: rounded to the cautious side, labelled, and safe against any name."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from test_report import HOSTILE, Page

from slth_compile.certificate.attack import Attack
from slth_compile.certificate.top1 import Top1
from slth_compile.errors import InputError
from slth_compile.report import comparison_plots, ladder
from slth_compile.report.comparison import Comparison, LayerChange, Rung, Statistical
from slth_compile.report.comparison_files import comparison_json, render_html, write
from slth_compile.report.files import require_writable
from slth_compile.report.markdown import render_text


def attack(value: float, per_output: np.ndarray) -> Attack:
    return Attack(value, np.zeros(1), (0, 1), 100, 4, 8_084, 2, 2, (per_output,))


BOX = Rung(
    domain="box [0, 1]",
    kind="box",
    method="interval",
    arithmetic="real, float64",
    bound=8.0612e-3,
    lower=0.0,
    float32=8.0614e-3,
    per_output=(np.array([8.0612e-3, 1e-3]),),
    seconds=0.25,
    attack=attack(1.7399e-3, np.array([1.7399e-3, 4e-4])),
    output_range=(-31.2, 20.0),
    top1=None,
)
BALLS = dataclasses.replace(
    BOX,
    domain="3 balls of radius 0.01",
    kind="balls",
    bound=2.1141e-3,
    top1=Top1(np.zeros(3, int), np.array([True, False, True]), np.ones(3, bool)),
)


def comparison(**changes: object) -> Comparison:
    """A comparison with some fields changed."""
    whole = Comparison(
        first="full",
        second="half",
        layers=(LayerChange(name="conv", weights=9, changed=4, largest_change=1.2345e-4, largest_weight=0.98765),),
        rungs=(BOX, BALLS),
        statistical=Statistical(
            samples=360,
            largest=1.23401e-3,
            confidence=0.95,
            exceedance=8.2871e-3,
            agreeing=359,
            accuracies=(0.975, 0.9722),
        ),
        platform="jax on cpu",
    )
    return dataclasses.replace(whole, **changes)


def markdown(found: Comparison) -> str:
    return render_text("title", ladder.headline(found), ladder.sections(found))


@pytest.mark.parametrize(
    "figure",
    [
        *("8.07e-3", "1.73e-3", "4.63×", "2.12e-3", "0.25 s"),
        "100 steps, 4 restarts, 8,084 inputs evaluated",
        *("−31.2 … 20.0", "2 (66.67 %)", "3 (100.00 %)", "1.24e-3", "0.829 %", "95 %", "359 of 360", "97.50 %"),
        *("4 of 9 weights", "1.24e-4", "real, float64", "unchanged on 2 of 3 balls of radius 0.01"),
    ],
)
def test_every_figure_is_shown(figure: str) -> None:
    """Bounds, largest differences and shares rounded up; what an attack found rounded down."""
    assert figure in "".join(Page(render_html(comparison())).text.values())
    assert figure in markdown(comparison())


def test_the_headline_is_the_widest_informative_statement() -> None:
    assert ladder.headline(comparison()).startswith("For every input of box [0, 1], no output of half differs from")
    vacuous = dataclasses.replace(BOX, bound=31.3)
    assert vacuous.is_vacuous and not dataclasses.replace(BOX, bound=31.2).is_vacuous
    assert not dataclasses.replace(vacuous, kind="points").is_vacuous
    found = comparison(rungs=(vacuous, BALLS))
    assert ladder.headline(found).startswith("For every input in the 3 balls of radius 0.01, ")
    assert "vacuous" in markdown(found) and "(vacuous)" in render_html(found)
    assert "vacuous" not in markdown(comparison())
    nothing = comparison(rungs=(vacuous,))
    assert ladder.headline(nothing).startswith("No bound certified here is informative")


def test_an_infinite_bound_is_data_all_the_same() -> None:
    endless = dataclasses.replace(BOX, bound=math.inf, per_output=(np.array([math.inf, 1.0]),))
    assert endless.is_vacuous and endless.ratio is None
    found = comparison(rungs=(endless,), statistical=None)
    record = json.loads(json.dumps(comparison_json(found), allow_nan=False))
    assert record["certified"][0]["bound"] is None
    assert record["certified"][0]["per_output"] == [[None, 1.0]]
    assert record["statistical"] is None
    assert "∞" in render_html(found)


@pytest.mark.parametrize("where", ["first", "domain", "layer", "platform"])
def test_hostile_names_stay_text(where: str) -> None:
    found = comparison()
    match where:
        case "domain":
            found = comparison(rungs=(dataclasses.replace(BALLS, domain=HOSTILE),))
        case "layer":
            found = comparison(layers=(dataclasses.replace(found.layers[0], name=HOSTILE),))
        case _:
            found = comparison(**{where: HOSTILE})
    page = Page(render_html(found))
    assert "script" not in page.tags and "alert" in "".join(page.text.values())
    text = markdown(found)
    assert "<script" not in text and "](http" not in text


def test_of_many_outputs_those_with_the_largest_bounds_are_drawn() -> None:
    bounds = np.arange(1.0, 101.0)
    many = dataclasses.replace(BOX, per_output=(bounds,), attack=attack(1.0, bounds / 2))
    picture = comparison_plots.outputs(many, "many")
    assert "the 16 outputs with the largest bounds of 100" in picture
    assert ">99<" in picture and ">84<" in picture and ">83<" not in picture
    two = dataclasses.replace(BOX, per_output=(np.ones((1, 2)), np.array(3.0)), attack=None)
    assert all(f">{label}<" in comparison_plots.outputs(two, "two") for label in ("0: 0,1", "1: output"))


def test_files_are_whole_or_refused(tmp_path) -> None:
    for ending in (".html", ".md", ".json"):
        write(comparison(), tmp_path / f"found{ending}")
    assert json.loads((tmp_path / "found.json").read_text())["second"] == "half"
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(InputError, match="cannot be written"):
        comparison().report(tmp_path / "no" / "found.md")
    with pytest.raises(InputError, match="named twice"):
        require_writable([tmp_path / "a.md", tmp_path / "a.md"], (".md",), force=False)


@pytest.mark.parametrize(("arithmetic", "words"), [("real", ", in real arithmetic"), ("real, float64", "")])
def test_predictions_name_the_arithmetic_they_are_true_for(arithmetic: str, words: str) -> None:
    proved = np.array([True, False])
    for kind in ("points", "balls"):
        rung = dataclasses.replace(BOX, kind=kind, arithmetic=arithmetic, top1=Top1(np.zeros(2, int), proved, proved))
        (sentence,) = ladder.predictions(comparison(rungs=(rung,)))
        assert f"the same class the largest output{words}" in sentence
