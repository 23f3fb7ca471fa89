"""The ledger as HTML: a document of claims in, markup out; knows nothing of Sphinx.

Every number shown keeps three digits, and what is below 1e-9 is called rounding, so that another machine shows the same.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Callable

PAGE = "appendix/ledger"
VERDICTS = ("identity checked", "numerically consistent", "premises unmet", "contradicted")
LOOSE = 1e3  # beyond it the ratio says no more, and its digits are often those of rounding
Link = Callable[[str, str], str]  # (page, anchor) -> address


def strip(claims: list[dict]) -> str:
    """One sentence on a chapter's claims, without its full stop."""
    if not claims:
        return "no claim is checked"
    count = Counter(_kind(claim) for claim in claims)
    controls = [claim["control"] for claim in claims if claim["control"]]
    parts = [
        " · ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict]),
        f"{max(claim['members'] for claim in claims)} members at most, {sum(c['comparisons'] for c in claims):,} comparisons",
        f"controls: {sum(control['noticed'] for control in controls)} of {len(controls)} fail as they must",
    ]
    if any(is_enclosed(claim) for claim in claims):
        parts.insert(1, f"{sum(is_enclosed(claim) for claim in claims)} enclosed by interval proofs")
    return "; ".join(parts)


def is_enclosed(claim: dict) -> bool:
    """Whether every network of the claim has an interval proof."""
    return bool(claim["enclosed"]) and claim["enclosed"]["proved"] == claim["enclosed"]["of"] > 0


def summary(document: dict, *, titles: dict[str, str], link: Link) -> str:
    """The figures that one wants first."""
    claims, stated = document["claims"], document["statements"]
    count = Counter(_kind(claim) for claim in claims)
    noticed = sum(bool(claim["control"] and claim["control"]["noticed"]) for claim in claims)
    checked = {label for claim in claims for label in claim["theorems"]}
    figures = [
        (f"{len(claims)}", f"claims in {len({claim['chapter'] for claim in claims})} chapters"),
        *((f"{count[verdict]}", verdict) for verdict in VERDICTS),
        (_of(noticed, len(claims)), "have a control that fails, as it must"),
        (f"{sum(is_enclosed(claim) for claim in claims)}", "enclosed: interval proofs for all their networks"),
        (_of(sum(s["label"] in checked for s in stated), len(stated)), "statements of the text named by a claim that checks them"),
        (_of(sum(s["proof"] for s in stated), len(stated)), "statements with a proof in the text"),
        (
            _of(sum(bool(row["stated_only"]) for row in document["abstract"]), len(document["abstract"])),
            "claims of the abstract stated only",
        ),
    ]
    tiles = "".join(f"<li><span>{number}</span> {html.escape(words)}</li>" for number, words in figures)
    return f'<ul class="ledger-summary">{tiles}</ul>'


def unchecked(document: dict, *, titles: dict[str, str], link: Link) -> str:
    """What nothing in the book checks: rows of the abstract, each with its reason, and statements of the text."""
    checked = {label for claim in document["claims"] for label in claim["theorems"]}
    rows = [
        f"<li>{html.escape(row['claim'])}: <em>stated only</em>, {html.escape(row['stated_only'])}.</li>"
        for row in document["abstract"]
        if row["stated_only"]
    ]
    rows += [
        f"<li>{_statement_link(s, link)} ({_chapter_link(s['chapter'], titles, link)}): <em>stated only</em>, no claim names it.</li>"
        for s in document["statements"]
        if s["label"] not in checked
    ]
    return f'<ul class="ledger-unchecked">{"".join(rows)}</ul>' if rows else "<p>Every statement of the text, and every row of the table on the first page, is named by a claim.</p>"


def table(document: dict, *, titles: dict[str, str], link: Link) -> str:
    """One row a claim. Each cell carries the key to sort by; without the script the rows stand in the book's order."""
    stated = {statement["label"]: statement for statement in document["statements"]}
    head = "".join(f'<th scope="col" title="{html.escape(says)}">{html.escape(name)}</th>' for name, says in _COLUMNS)
    body = "".join(_row(claim, stated, titles, link) for claim in document["claims"])
    return (
        '<div class="claims-scroll ledger-scroll" tabindex="0" role="region" aria-label="All claims of this build">'
        f'<table class="claims ledger"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


_COLUMNS = (
    ("Claim", "In words, with its label"),
    ("Chapter", "Where it is made"),
    ("Verdict", "Of this build"),
    ("Would it notice a fault?", "Members for which the control fails"),
    ("Bound ÷ measured", "Tightest comparison, and the median; 1 where the bound is attained"),
    ("Slack", "Least distance from failing over all comparisons, tolerance included"),
    ("Members", "Networks or cases, and comparisons"),
    ("Premises, measured", "Each with its outcome"),
    ("Checks", "The statement of the text that it checks; none for an experiment"),
    ("Proof in the text", "Whether a proof of that statement stands there"),
    ("Interval proof", "Networks next to which an exact stationary point is proved by interval arithmetic"),
    ("Run", "Seconds that the chapter took, and its parameters"),
)


def _row(claim: dict, stated: dict[str, dict], titles: dict[str, str], link: Link) -> str:
    chapter, label = claim["chapter"], claim["label"]
    named = [stated[name] for name in claim["theorems"]]
    proofs = [statement["proof"] for statement in named]
    slack = None if None in claim["slack"] else min(claim["slack"])
    worst = claim["tightness"]["worst"]
    control = claim["control"]
    cells = (
        (f'{html.escape(claim["statement"])}{_small(_anchor(link(chapter, f"claim-{label}"), label))}', claim["statement"] or label),
        (_chapter_link(chapter, titles, link), titles[chapter]),
        (html.escape(claim["verdict"]), VERDICTS.index(_kind(claim))),
        (_control(control), control["failing_members"] / control["members"] if control else -1),
        (_tightness(claim), "" if worst is None else -worst),
        (_slack(claim, slack), "" if slack is None else slack),
        (f"{claim['members']:,}{_small(_count(claim['comparisons'], 'comparison'))}", claim["members"]),
        ("".join(_premise(premise) for premise in claim["premises"]) or _small("none"), len(claim["premises"])),
        (", ".join(_statement_link(s, link) for s in named) or _small("an experiment"), named[0]["title"] if named else ""),
        (_proof(proofs), int(not all(proofs)) if proofs else 2),
        (_enclosed(claim), -claim["enclosed"]["proved"] / claim["enclosed"]["of"] if claim["enclosed"] else 1),
        (f"{claim['seconds']:.0f} s{_small(_anchor(link(chapter, 'provenance'), 'parameters'))}", claim["seconds"]),
    )
    first, *rest = (f' data-sort="{html.escape(str(key))}">{markup}' for markup, key in cells)
    return (
        f'<tr id="ledger-{html.escape(label)}" data-chapter="{html.escape(chapter)}" data-verdict="{_kind(claim)}">'
        f'<th scope="row"{first}</th>' + "".join(f"<td{cell}</td>" for cell in rest) + "</tr>"
    )


def _kind(claim: dict) -> str:
    return claim["verdict"].split(" (")[0]


def _proof(proofs: list[bool]) -> str:
    if not proofs:
        return ""
    return ("yes" if all(proofs) else "no") if len(set(proofs)) == 1 else _of(sum(proofs), len(proofs))


def _enclosed(claim: dict) -> str:
    if not claim["enclosed"]:
        return ""
    share = _of(claim["enclosed"]["proved"], claim["enclosed"]["of"])
    return f"enclosed{_small(share)}" if is_enclosed(claim) else f"{share} networks"


def _slack(claim: dict, slack: float | None) -> str:
    if slack is None:
        return "not a number"
    if claim["relation"] == "==" and slack >= 0:
        return "equal" + (_small(f"within {claim['tolerance']:.0e}") if claim["tolerance"] else "")
    return number(slack)


def _tightness(claim: dict) -> str:
    """The inverse of the record's share: how many times larger a bound from above is, or smaller one from below."""
    worst, median = (_times(claim["tightness"][which]) for which in ("worst", "median"))
    return worst if worst == median else f"{worst}{_small(f'median {median}')}"


def _times(share: float | None) -> str:
    if share is None:
        return ""
    if share < 1 / LOOSE:
        return f"over {LOOSE:,.0f}"
    if share > 1 + 1e-12:  # a violated bound never reads 1.00
        return f"{math.floor(100 / share) / 100:.2f}"
    return f"{1 / share:.2f}" if share > 0.1 else f"{1 / share:.3g}"


def _premise(premise: dict) -> str:
    met = "unmet" if _kind(premise) in ("premises unmet", "contradicted") else "met"
    sides = ""
    if premise["relation"] != "==" and None not in (premise["lhs"], premise["rhs"]):
        sides = f" ({number(premise['lhs'])} {premise['relation']} {number(premise['rhs'])})"
    return f"<div>{html.escape(premise['label'])}: <strong>{met}</strong>{html.escape(sides)}</div>"


def _control(control: dict | None) -> str:
    if control is None:
        return "no control"
    noticed = "yes" if control["noticed"] else "no"
    share = _of(control["failing_members"], control["members"])
    return f"{noticed}, {share} fail{_small(html.escape(control['label']))}"


def _statement_link(statement: dict, link: Link) -> str:
    return _anchor(link(statement["chapter"], statement["label"]), statement["title"] or statement["label"])


def _chapter_link(chapter: str, titles: dict[str, str], link: Link) -> str:
    return _anchor(link(chapter, "").rstrip("#"), titles[chapter])


def _anchor(address: str, words: str) -> str:
    return f'<a href="{address}">{html.escape(words)}</a>'


def _small(markup: str) -> str:
    return f'<span class="aside">{markup}</span>'


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def number(value: float) -> str:
    """As in the chapters' tables: three significant digits, and what is below 1e-9 is called rounding."""
    return "0 (rounding)" if 0 < abs(value) < 1e-9 else f"{value:.3g}"
