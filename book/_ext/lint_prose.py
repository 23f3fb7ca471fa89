"""Markdown as a reader sees it: prose and formulas apart, and everything else blanked so that offsets stay."""

from __future__ import annotations

import re

DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+"
_ROLES_OF_TEXT = r"(?!\{(?:math|sub|sup|abbr|term)\})"
_HIDDEN = (  # each is blanked, so that offsets stay
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(_ROLES_OF_TEXT + r"\{[\w:.+-]+\}`[^`]*`"),
    re.compile(r"(?<=\])\([^()\s]*(?:\s\"[^\"]*\")?\)"),
    re.compile(r"(?:https?://|www\.)[^\s>)]+"),
    re.compile(r"arXiv[: ]\d{4}\.\d{4,5}(?:v\d+)?"),
    re.compile(r"^\s*\d+[.)](?=\s)", re.MULTILINE),
    re.compile(r"^\([\w-]+\)=\s*$", re.MULTILINE),
    re.compile(r"^[ \t>]*:[\w-]+:(?!`)[^\n]*$", re.MULTILINE),
)
_ALT_OPTION = re.compile(r"^[ \t]*:(?:alt|caption):", re.MULTILINE)
_ALT_ATTRIBUTE = re.compile(r"""\b(?:alt|title|aria-label)=(?:"[^"]*"|'[^']*')""")
_FENCE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,}|:{3,})[ \t]*(?P<name>\{[^}\n]+\})?(?P<rest>[^\n]*)$", re.MULTILINE)
_OPAQUE = ("code", "code-block", "code-cell", "bibliography", "eval-rst", "literalinclude", "provenance", "toctree")
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_ONLY_A_NUMBER = re.compile(rf"[-+−≈~<>= ]*(?:{DIGITS})(?:[eE][-+]?\d+)?\s?%?")


def _blank(text: str, spans) -> str:
    for start, end in spans:
        text = text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
    return text


def split(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Markdown with everything blanked that is no prose, and the places of its formulas."""
    words = _without_shown_code(text)
    for pattern in _HIDDEN:
        kept = pattern is _HIDDEN[-1]
        words = _blank(words, [m.span() for m in pattern.finditer(words) if not (kept and _ALT_OPTION.match(m[0]))])
    words = _blank(words, [m.span() for m in _INLINE_CODE.finditer(words) if not _ONLY_A_NUMBER.fullmatch(m[2].strip())])
    tags = []
    for tag in re.finditer(r"</?[a-zA-Z][^<>]*>", words):
        start = tag.start()
        for attribute in _ALT_ATTRIBUTE.finditer(tag[0]):
            tags.append((start, tag.start() + attribute.start()))
            start = tag.start() + attribute.end()
        tags.append((start, tag.end()))
    return split_formulas(text, _blank(words, tags))


def _without_shown_code(text: str) -> str:
    """`text` without code fences, fence lines and the arguments of directives; what a directive says stays."""
    open_fences, spans, hidden = [], [], None
    for match in _FENCE.finditer(text):
        fence, name = match["fence"], (match["name"] or "").strip("{}")
        closes = open_fences and not name and not match["rest"].strip() and fence.startswith(open_fences[-1])
        if hidden is not None and not closes:
            continue
        if closes:
            open_fences.pop()
            if hidden is not None:
                spans.append((hidden, match.end()))
                hidden = None
            else:
                spans.append(match.span())
            continue
        open_fences.append(fence)
        if (name in _OPAQUE) or (not name and fence[0] != ":"):
            hidden = match.start()
        elif name == "math":
            spans.append(match.span())
        else:  # titles of theorems and admonitions are prose, arguments of others are not
            titled = name.startswith("prf:") or name in ("admonition", "dropdown", "note", "warning", "tip", "figure-md")
            spans.append((match.start(), match.start("rest") if titled else match.end()))
    if hidden is not None:
        spans.append((hidden, len(text)))
    return _blank(text, spans)


def unescaped(text: str) -> str:
    """`text` with LaTeX's thin spaces blanked."""
    return re.sub(r"\\,", "  ", text)


def split_formulas(source: str, words: str) -> tuple[str, list[tuple[int, int]]]:
    """`words` without its formulas, and where these are in `source`."""
    formulas = []
    for pattern in (r"\$\$(.+?)\$\$", r"(?<![\\$])\$(?!\$)([^$]+?)(?<!\\)\$", r"\{math\}`([^`]*)`",
                    r"\\begin\{(?:align|equation|gather)\*?\}(.+?)\\end\{(?:align|equation|gather)"):  # fmt: skip
        for match in re.finditer(pattern, words, flags=re.DOTALL):
            formulas.append(match.span(1))
            words = _blank(words, [match.span()])
    return words, formulas
