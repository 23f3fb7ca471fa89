"""What `tools/mutations.py --record` stored of wrong versions of the package, as HTML; knows nothing of Sphinx."""

from __future__ import annotations

import hashlib
import html
from collections import Counter
from pathlib import Path

RECORD = "appendix/mutations.json"
NOTICED = {
    "claim": "a claim fails, or its control does not",
    "exception": "a chapter stops with an exception",
    "premise": "premises of a claim are no longer met",
    "timeout": "a chapter no longer ends",
    "printed": "a chapter shows other numbers",
    "test": "a test of the module fails",
    "nothing": "nothing notices",
}


def hashes(package: Path) -> dict[str, str]:
    """Of each module of the package, by its path from the top."""
    return {f"{package.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(package.glob("*.py"))}


def rendered(record: dict, package: Path, *, chapter_of: dict[str, str], titles: dict[str, str], link) -> str:
    """The record as HTML; labels of claims that this build has become links."""
    all_of = record["mutations"]
    count = Counter(one["noticed"] for one in all_of)
    parts = "; ".join(f"{words}: {count[kind]}" for kind, words in NOTICED.items() if count[kind])
    now = hashes(package)
    changed = sorted({one["file"] for one in all_of if record["modules"].get(one["file"], "") != now.get(one["file"])})
    state = f"changed since the record: {', '.join(changed)}" if changed else "none of the modules has changed since"
    rows = "".join(_row(one, chapter_of, titles, link) for one in all_of)
    return (
        f"<p><strong>{len(all_of) - count['nothing']} of {len(all_of)} wrong versions were noticed.</strong> {html.escape(parts)}. "
        f"Recorded on {html.escape(record['date'])} at commit {html.escape(record['commit'])}; {html.escape(state)}.</p>"
        '<div class="claims-scroll" tabindex="0" role="region" aria-label="All wrong versions"><table class="claims mutations">'
        '<thead><tr><th scope="col">What was changed</th><th scope="col">Why a correct book must notice</th><th scope="col">What noticed it first</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(one: dict, chapter_of: dict[str, str], titles: dict[str, str], link) -> str:
    change = (
        f'<span class="aside">{html.escape(one["file"])}, {html.escape(one["name"])}</span>'
        f"<del>{html.escape(one['old'])}</del> <ins>{html.escape(one['new']) or 'nothing'}</ins>"
    )
    where = f" in {html.escape(titles.get(one['chapter'], one['chapter']))}" if one["chapter"] else ""
    claims = ", ".join(
        f'<a href="{link(chapter_of[label], f"claim-{label}")}">{html.escape(label)}</a>' if label in chapter_of else html.escape(label) for label in one["claims"]
    )
    found = claims or html.escape(one["words"])
    return f"<tr><td>{change}</td><td>{html.escape(one['why'])}</td><td><strong>{NOTICED[one['noticed']]}</strong>{where}{': ' if found else ''}{found}</td></tr>"
