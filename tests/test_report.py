"""The report shows every figure that matters, keeps planned and certified apart, and survives hostile names."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from html.parser import HTMLParser

import jsonschema
import numpy as np
import pytest

from slth_compile.report import construction, numbers, statements
from slth_compile.report.card import render_card
from slth_compile.report.html import render_html
from slth_compile.report.markdown import escape, render_markdown
from slth_compile.report.record import summary_json
from slth_compile.report.schema import certificate_schema
from slth_compile.report.summary import AttackRow, CertificateRow, Evaluation, LayerRow, Measured, Summary
from slth_compile.report.terminal import render_terminal
from slth_compile.summarise import quantiser_entropy
from slth_compile.ticket.masks import SubsetMask

HOSTILE = '<script>alert("1")</script> | $x_1^ `a` [b](http://c) \\ \n id="axes_1" url(#p) #010203'
TICKET_ID, TARGET_DIGEST = "3f1a" * 16, "9c0b" * 16

POINTS = CertificateRow(
    domain="360 points",
    kind="points",
    method="points",
    bound=6.5312e-4,
    lower=6.5297e-4,
    attack=AttackRow(value=6.5301e-4, steps=0, restarts=0, inputs=360),
    largest_output=23.4,
)
BALLS = CertificateRow(
    domain="100 balls of radius 0.01",
    kind="balls",
    method="interval",
    bound=2.1141e-3,
    lower=0.0,
    attack=AttackRow(value=9.137e-4, steps=200, restarts=4, inputs=80400),
    largest_output=23.9,
)
BOX = CertificateRow(
    domain="box [0, 1]",
    kind="box",
    method="interval",
    bound=8.0612e-3,
    lower=0.0,
    attack=AttackRow(value=1.7399e-3, steps=500, restarts=16, inputs=8016),
    largest_output=31.2,
)


def layer(**changes: object) -> LayerRow:
    """A layer row with some fields changed."""
    row = LayerRow(
        name="conv1",
        kind="convolution 5x5, 1 -> 6",
        signed=False,
        weights=156,
        width=176,
        bias_width=208,
        gain=-2,
        window=16,
        tolerance=3.1e-5,
        failure=1.711e-4,
        parameters_v=27_456,
        parameters_u=192,
        largest_error=3.0511e-5,
        kept=1_232,
        mask_bits=2_683,
        raw_bits=2_901,
        quantiser_bits=1_402.5,
    )
    return dataclasses.replace(row, **changes)


def summary(**changes: object) -> Summary:
    """A summary with some fields changed."""
    certificates = (POINTS, BALLS, BOX)
    evaluation = Evaluation(metric="top-1 accuracy", samples=360, target=350 / 360, ticket=349 / 360, literal=351 / 360)
    whole = Summary(
        ticket_id=TICKET_ID,
        target_digest=TARGET_DIGEST,
        seed=20240601,
        eps=1e-2,
        delta=1e-3,
        planned_failure=8.13e-4,
        planned_bound=9.97e-3,
        promise="all",
        constant_v=7.31,
        constant_u=24.9,
        layers=(layer(), layer(name="logits", kind="dense 84 -> 10", signed=True, weights=850, parameters_u=1_241_856)),
        certificates=certificates,
        mask_bytes=2_163,
        measured=Measured(
            seconds={"plan": 1.84, "search": 74.2},
            attacks=tuple(row.attack for row in certificates),
            largest_outputs=tuple(row.largest_output for row in certificates),
            evaluation=evaluation,
            platform="jax 0.10.2, numpy 2.4.1, cpu",
        ),
    )
    return dataclasses.replace(whole, **changes)


class Page(HTMLParser):
    """Sections, tables and attributes of a page; refuses tags that do not nest."""

    VOID = frozenset({"meta", "br", "img", "link", "use", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.section = ""
        self.text: dict[str, str] = {}
        self.tables: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        if tag == "table":
            self.tables.setdefault(self.section, []).append("")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag without content."""
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """Notes an end."""
        if tag in self.VOID:
            return
        assert self.stack.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        """Collects text by section and table."""
        self.text[self.section] = self.text.get(self.section, "") + data
        if "table" in self.stack:
            self.tables[self.section][-1] += data + " "

    @property
    def tags(self) -> set[str]:
        """All tags that occur with attributes."""
        return {tag for tag, _, _ in self.attributes}


@functools.cache
def default_page() -> Page:
    """The page of the summary nothing is changed in."""
    return Page(render_html(summary()))


FIGURES = (
    *("6.54e-4", "6.52e-4", "6.53e-4", "2.12e-3", "9.13e-4", "8.07e-3", "1.73e-3", "1e-2"),
    *("2.31×", "4.63×", "200 steps, 4 restarts", "500 steps, 16 restarts, 8,016 inputs", "31.2"),
    *("9.97e-3", "8.13e-4", "1e-3", "7.31", "24.9", "1.72e-4"),
    *("1,006 weights", "2 layers", "20240601", TICKET_ID, TARGET_DIGEST, "27,456", "192", "1,232", "1,241,856"),
    *("7.90", "4.49 %", "17.2", "3.10e-5", "3.06e-5", "176", "208", "2⁻²", "convolution 5x5, 1 → 6", "both"),
    *("97.22 %", "96.94 %", "97.50 %", "−0.28 points", "+0.28 points", "360 samples"),
    *("4,024", "2,012", "1,006", "2,163", "not smaller than an int8 checkpoint", "2.15 times the bytes of int8"),
    *("1.8 s", "1 min 14 s", "1 min 16 s", "jax 0.10.2"),
)


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_shown(figure: str) -> None:
    page = default_page()
    assert figure in "".join(page.text.values())
    assert figure in render_markdown(summary())


def test_headline_is_the_widest_informative_statement() -> None:
    sentence = (
        "For every input of box [0, 1], every output of the pruned random network is within 8.1e-3 of the target "
        "(asked: 1e-2)."
    )
    assert statements.headline(summary()) == sentence
    assert f"**{sentence}**" in render_markdown(summary())
    empty_box = dataclasses.replace(BOX, largest_output=8e-3)
    assert statements.headline(summary(certificates=(POINTS, empty_box))).startswith("On each of the 360 points, ")


def test_a_vacuous_bound_is_marked_and_never_the_headline() -> None:
    vacuous = summary(eps=50.0, certificates=(dataclasses.replace(BOX, bound=40.0),))
    assert statements.headline(vacuous).startswith("No bound certified here is informative: the smallest, 40")
    page = Page(render_html(vacuous))
    assert "vacuous" in page.tables["certified"][0]
    assert "vacuous" in render_markdown(vacuous)
    assert "vacuous" in render_card(vacuous)
    assert "vacuous" not in Page(render_html(summary())).tables["certified"][0]


def test_planned_and_certified_are_apart() -> None:
    page = default_page()
    (certified,) = page.tables["certified"]
    for word in ("delta", "lanned", "robab", "ailure", "8.13e-4", "9.97e-3"):
        assert word not in certified
        assert word not in page.text["certified"]
    planned = page.text["planned"]
    for word in ("ertified", "8.07e-3", "2.12e-3", "6.54e-4", "ttack"):
        assert word not in planned
    assert "delta" in planned
    assert "8.13e-4" in planned
    for rendered in (render_html(summary()), render_markdown(summary()), render_card(summary())):
        for sentence in rendered.replace("\n", " ").replace("<", ". ").split(". "):
            assert not ("delta" in sentence and "certif" in sentence.lower()), sentence
    record = summary_json(summary())
    assert not {"failure", "delta", "planned"} & set(record["certified"][0])
    assert not {"certified", "bound_certified", "attack"} & set(record["planned"])


def test_the_page_fetches_nothing() -> None:
    text = render_html(summary())
    page = Page(text)
    assert "://" not in text
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for _, name, value in page.attributes:
        assert name != "src"
        assert not name.startswith("on")
        if name.endswith("href"):
            assert value.startswith("#")
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_links_and_identifiers_agree() -> None:
    page = default_page()
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    referred = {value[1:] for _, name, value in page.attributes if name.endswith("href")}
    referred |= {value for _, name, value in page.attributes if name == "aria-labelledby"}
    referred |= {value[5:-1] for _, name, value in page.attributes if name == "clip-path"}
    assert referred <= set(identifiers)


def test_the_page_is_accessible() -> None:
    text = render_html(summary())
    page = Page(text)
    assert text.count("<table") == text.count("<caption>")
    plots = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(plots) == 4
    assert any("box [0, 1]: certified bound 8.07e-3, attack found 1.73e-3" in label for label in plots)
    assert any("mask (this ticket) 2,163 bytes" in label for label in plots)


@pytest.mark.parametrize("where", ["layer", "domain", "platform", "stage", "metric", "method", "kind"])
def test_hostile_names_stay_text(where: str) -> None:
    measured, changes = summary().measured, {}
    match where:
        case "layer" | "kind":
            changes["layers"] = (layer(**{"name" if where == "layer" else "kind": HOSTILE}), layer())
        case "domain" | "method":
            changes["certificates"] = (dataclasses.replace(BOX, **{where: HOSTILE}), POINTS)
        case "platform":
            changes["measured"] = dataclasses.replace(measured, platform=HOSTILE)
        case "stage":
            changes["measured"] = dataclasses.replace(measured, seconds={HOSTILE: 1.0})
        case "metric":
            evaluation = Evaluation(metric=HOSTILE, samples=1, target=0.5, ticket=0.25, literal=None)
            changes["measured"] = dataclasses.replace(measured, evaluation=evaluation)
    hostile = summary(**changes)
    page = Page(render_html(hostile))
    assert "script" not in page.tags
    assert "alert" in "".join(page.text.values())
    text = render_markdown(hostile)
    assert "<script" not in text
    assert "](http" not in text
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| ") and "alert" in line}
    assert columns <= {3, 4, 6, 8, 10, 13}
    assert "<script" not in render_card(hostile)


def test_markdown_tables_are_rectangular() -> None:
    width = 0
    for line in render_markdown(summary(layers=(layer(name=HOSTILE), layer(name="a\\|b\nc")))).splitlines():
        if not line.startswith("|"):
            width = 0
        elif width == 0:
            width = line.count("|")
        assert not line.startswith("|") or line.count("|") == width


def test_markdown_escape_keeps_ordinary_names() -> None:
    assert escape("block_3/Conv_0 (5x5), box [0, 1]^64") == "block_3/Conv_0 (5x5), box [0, 1]^64"
    assert escape("a|b\n\x00c") == "a&#124;b c"
    assert escape("__init__ *x*") == "&#95;_init_&#95; &#42;x&#42;"


ODD = {
    "one layer": {"layers": (layer(),)},
    "no attack": {"certificates": (dataclasses.replace(BOX, attack=None),)},
    "no certificate": {"certificates": ()},
    "zeros": {
        "layers": (
            layer(
                weights=0,
                kept=0,
                mask_bits=0,
                raw_bits=0,
                quantiser_bits=0.0,
                parameters_v=0,
                parameters_u=0,
                tolerance=0.0,
                largest_error=0.0,
            ),
        ),
        "certificates": (
            dataclasses.replace(
                BOX, bound=0.0, attack=AttackRow(value=0.0, steps=0, restarts=0, inputs=0), largest_output=0.0
            ),
        ),
        "mask_bytes": 0,
        "planned_failure": 0.0,
        "planned_bound": 0.0,
        "constant_u": 0.0,
    },
    "infinite": {
        "layers": (layer(largest_error=math.inf, tolerance=math.inf, failure=math.inf),),
        "certificates": (
            dataclasses.replace(
                BOX,
                bound=math.inf,
                attack=AttackRow(value=math.inf, steps=1, restarts=1, inputs=1),
                largest_output=math.inf,
            ),
            dataclasses.replace(POINTS, bound=math.nan, largest_output=math.nan),
        ),
        "planned_bound": math.inf,
        "constant_v": math.nan,
    },
    "tiny and huge": {
        "layers": (layer(largest_error=5e-324, tolerance=1.7e308),),
        "certificates": (dataclasses.replace(BOX, bound=5e-324, largest_output=1.7e308),),
    },
    "many layers": {"layers": tuple(layer(name=f"stage{i}/block{i}/convolution_{i}") for i in range(120))},
    "other scripts": {"layers": (layer(name="слой-層-🙂"),)},
    "above eps": {"eps": 1e-3},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", ODD)
def test_odd_summaries_are_rendered(case: str) -> None:
    odd = summary(**ODD[case])
    Page(render_html(odd))
    render_markdown(odd)
    render_card(odd)
    json.loads(json.dumps(summary_json(odd), allow_nan=False))


@pytest.mark.parametrize("changes", [{"evaluation": None}, {"seconds": {}}, {"seconds": {"plan": 0.0}}])
def test_missing_measurements_leave_no_section(changes: dict[str, object]) -> None:
    without = summary(measured=dataclasses.replace(summary().measured, **changes))
    page = Page(render_html(without))
    assert ("quality" in page.text) == ("evaluation" not in changes)
    assert ("time" in page.text) == (changes.get("seconds") != {})


def test_what_was_not_run_says_so() -> None:
    evaluation = Evaluation(metric="mean squared difference", samples=1, target=1.5e-4, ticket=1.25e-4, literal=None)
    changed = summary(
        certificates=(dataclasses.replace(BOX, attack=None),),
        measured=dataclasses.replace(summary().measured, evaluation=evaluation),
    )
    text = render_markdown(changed)
    assert "no attack was run" in text
    assert "| Ticket, literal pruned network | not run | – |" in text
    assert "| Ticket, effective form | 1.25e-4 | −2.50e-5 |" in text


def test_an_attack_above_the_bound_is_shouted() -> None:
    attack = AttackRow(value=1.0, steps=1, restarts=1, inputs=1)
    text = render_markdown(summary(certificates=(dataclasses.replace(BOX, attack=attack),)))
    assert "above the certified bound by 1.0" in text
    assert "1.00 (above the bound)" in text
    assert "would refute" not in render_markdown(summary())


def test_a_smaller_mask_is_not_sold_as_compression() -> None:
    text = render_markdown(summary(mask_bytes=500))
    assert "not smaller than an int8" not in text
    assert "not because pruning compresses" in text


def test_wide_u_is_named() -> None:
    assert "U has more random parameters than V in: logits." in render_markdown(summary())
    assert "U has more" not in render_markdown(summary(layers=(layer(),)))


def test_reports_repeat_byte_for_byte() -> None:
    assert render_html(summary()) == render_html(summary())


def test_card_says_what_matters() -> None:
    card = render_card(summary())
    assert TICKET_ID in card
    for row in (POINTS, BALLS, BOX):
        assert statements.statement(row, 1e-2) in card
    for command in ("slth-compile verify DIR", "python -m slth_compile.checker DIR", 'out = slth.load("DIR")'):
        assert command in card
    files = "manifest.json masks.safetensors target.safetensors domain.safetensors certificate.json SHA256SUMS"
    for name in f"{files} stats.json report.html report.md".split():
        assert f"| `{name}` |" in card
    assert "exact weights of this ticket, in the arithmetic it names" in card
    assert "float32" in card
    assert "delta = 1e-3 was a probability over seeds, stated before drawing" in card


def test_record_keeps_full_figures() -> None:
    record = json.loads(json.dumps(summary_json(summary())))
    assert record["certified"][2]["bound"] == BOX.bound
    assert record["certified"][2]["measured"]["attack"]["steps"] == 500
    assert record["planned"]["failure"] == 8.13e-4
    assert record["planned"]["layers"][0] == {"name": "conv1", "failure": 1.711e-4}
    assert record["size"]["bytes_int8"] == 1_006
    assert record["layers"][1]["signed"] is True
    assert "failure" not in record["layers"][0]
    asked = {"eps": 1e-2, "delta": 1e-3, "objective": "closest", "construction": "da-cunha"}
    assert record["asked"] == asked


@pytest.mark.parametrize(
    ("value", "digits", "rounding", "text"),
    [
        (8.0612e-3, 3, "up", "8.07e-3"),
        (8.0612e-3, 3, "down", "8.06e-3"),
        (9.999e-3, 3, "up", "1.00e-2"),
        (8.13e-4, 3, "up", "8.13e-4"),
        (0.0999, 2, "up", "0.10"),
        (0.5, 3, "nearest", "0.500"),
        (23.45, 3, "down", "23.4"),
        (12_345.0, 3, "up", "12,400"),
        (2.5e7, 2, "nearest", "2.5e7"),
        (-2.5e-5, 3, "nearest", "−2.50e-5"),
        (-0.25, 2, "nearest", "−0.25"),
        (0.0, 3, "up", "0"),
        (math.inf, 3, "up", "∞"),
        (math.nan, 3, "up", "–"),
    ],
)
def test_significant(value: float, digits: int, rounding: numbers.Rounding, text: str) -> None:
    assert numbers.significant(value, digits, rounding) == text


def test_bounds_are_never_shown_above_a_limit_they_meet() -> None:
    assert numbers.upper_bound(1.2341e-2, 1.235e-2, 2) == "1.235e-2"
    assert numbers.upper_bound(9.96e-3, 1e-2, 2) == "1.0e-2"
    assert numbers.upper_bound(2e-2, 1e-2, 2) == "2.0e-2"
    assert numbers.given(1e-2) == "1e-2"
    assert numbers.given(0.00123456789) == "1.23457e-3"


def test_small_formats() -> None:
    assert [numbers.size(n) for n in (0, 1023, 1024, 5 * 2**20, 3 * 2**30)] == [
        *("0 B", "1,023 B", "1.00 KiB", "5.00 MiB", "3.00 GiB"),
    ]
    assert [numbers.duration(s) for s in (0.021, 0.42, 59.4, 185, 7_800)] == [
        *("21 ms", "0.42 s", "59.4 s", "3 min 5 s", "2 h 10 min"),
    ]
    assert numbers.points(0.0) == "0.00 points"
    assert numbers.points(-1e-6) == "0.00 points"
    assert numbers.ratio(1.0, 0.0) == "–"


EVALUATED, REAL = {"arithmetic": "real, float64", "float32": 8.1e-3}, {"arithmetic": "real", "float32": None}
ENTRY = {"domain": 0, "kind": "box", "method": "interval", "bound": 8e-3, "lower": 0.0, "per_output": [[8e-3, 1e-3]]}
ENTRY |= EVALUATED
ON_POINTS = {"domain": 1, "kind": "points", "method": "points", "bound": 6e-4, "lower": 5e-4, "per_output": [[6e-4]]}
ON_POINTS |= REAL


def test_schema_accepts_certificates() -> None:
    schema = certificate_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate([ENTRY, ON_POINTS, {**ENTRY, "kind": "balls"}, {**ENTRY, "method": "backward"}], schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"bound": -1.0},
        {"bound": "8e-3"},
        {"bound": None},
        {"domain": 0.5},
        {"domain": -1},
        {"kind": "sphere"},
        {"method": "points"},
        {"kind": "points"},
        {"lower": 1e-3},
        {"per_output": []},
        {"per_output": [8e-3]},
        {"per_output": [[-1.0]]},
        {"delta": 1e-3},
        {"float32": -1.0},
        {"arithmetic": "float32"},
    ],
)
def test_schema_refuses_wrong_fields(changes: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{**ENTRY, **changes}], certificate_schema())


@pytest.mark.parametrize("field", sorted(ENTRY))
def test_schema_refuses_missing_fields(field: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([{key: value for key, value in ENTRY.items() if key != field}], certificate_schema())


@pytest.mark.parametrize("document", [[], {}, ENTRY, [[]], None])
def test_schema_refuses_other_documents(document: object) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, certificate_schema())


# ---------------------------------------------------------------- bits a weight


def test_bits_a_weight_are_printed_raw_coded_and_of_a_quantiser():
    """In the terminal, the page, the text and the record, for every layer and in total."""
    row = layer(weights=100, raw_bits=2_711, mask_bits=1_922, quantiser_bits=1_433.0)
    other = layer(name="logits", weights=300, raw_bits=6_000, mask_bits=5_000, quantiser_bits=4_000.0)
    whole = summary(layers=(row, other))
    per_layer, total = ("27.1", "19.2", "14.3"), ("21.8", "17.3", "13.6")
    lines = render_terminal(whole).splitlines()
    assert tuple(next(line for line in lines if line.startswith("conv1")).split()[-3:]) == per_layer
    size = next(line for line in lines if line.startswith("size"))
    assert all(figure in size for figure in total)
    cells = [[cell.text for cell in r] for r in construction.costs(whole).rows]
    assert tuple(cells[0][-3:]) == per_layer and tuple(cells[-1][-3:]) == total
    for page in (render_html(whole), render_markdown(whole)):
        assert all(figure in page for figure in per_layer + total)
    size = json.loads(json.dumps(summary_json(whole)))["size"]
    found = (size["raw_bits_per_weight"], size["mask_bits_per_weight"], size["quantiser_bits_per_weight"])
    assert found == (8_711 / 400, 6_922 / 400, 5_433 / 400)


def test_the_quantiser_is_the_stated_one():
    """Rounded to multiples of twice the error, entropy of what is there; with error 0, of the weights themselves."""
    weights = np.array([0.0, 0.09, -0.09, 0.11, 0.29, -0.31, 5.0, 5.01])
    # Multiples of 0.2: 0 0 0 0.2 0.2 -0.4 5 5
    expected = sum(k / 8 * math.log2(8 / k) for k in (3, 2, 1, 2))
    assert quantiser_entropy(weights, 0.1) == pytest.approx(expected, rel=1e-12)
    assert quantiser_entropy(weights, 0.0) == pytest.approx(3.0)
    assert quantiser_entropy(np.zeros(5), 0.1) == 0.0
    assert quantiser_entropy(np.random.default_rng(0).normal(size=200_000), 0.005) == pytest.approx(
        0.5 * math.log2(2 * math.pi * math.e) - math.log2(0.01), abs=0.01
    )


def test_raw_bits_are_unary_windows_and_a_bit_a_candidate():
    mask = SubsetMask(np.array([0, 3, 1], np.uint16), np.array([0, 5, 1], np.uint32))
    assert mask.raw_bits(7) == (1 + 4 + 2) + 3 * 7
