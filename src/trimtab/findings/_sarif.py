"""Findings as SARIF 2.1.0, which code hosts and editors read.

Specification: OASIS, Static Analysis Results Interchange Format 2.1.0, 2020, errata 01 of 2023.
"""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from trimtab.findings._finding import Finding, Severity, sentence
from trimtab.findings._markdown import page
from trimtab.findings._page import Page
from trimtab.findings._render import plain
from trimtab.findings._rule import FAMILIES, Rule, registered

SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.ADVICE: "note"}
PROBLEMS: Final = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.ADVICE: "recommendation",
}
"""What GitHub's code scanning calls severities."""
FINGERPRINT: Final = "trimtabFinding/v1"


def to_sarif(findings: Sequence[Finding], rules: Iterable[type[Rule] | Rule] = ()) -> str:
    """Return findings as a SARIF 2.1.0 log of one run.

    A finding in a file has a physical location, with its path as it was given; one at a module or
    parameter has a logical location. Step, evidence, count and consequences are in its properties.

    Args:
        findings: In the order in which they are shown.
        rules: That were asked; those of the findings are described in any case.
    """
    described = _descriptors(findings, rules)
    index = {each["id"]: i for i, each in enumerate(described)}
    seen: Counter[str] = Counter()
    driver = {
        "name": "trimtab",
        "version": _about()["Version"],
        "informationUri": _about()["Home"],
        "rules": described,
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(f, index[f.code], seen) for f in findings],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _descriptors(
    findings: Sequence[Finding], rules: Iterable[type[Rule] | Rule]
) -> list[dict[str, Any]]:
    """Return the descriptions of rules, in the order of their codes."""
    known = registered()
    classes = {r.code: r if isinstance(r, type) else type(r) for r in rules}
    described = {code: _descriptor(rule) for code, rule in classes.items()}
    for f in findings:
        if f.code not in described:
            rule = known.get(f.code)
            described[f.code] = _unregistered(f) if rule is None else _descriptor(rule)
    return [described[code] for code in sorted(described)]


def _descriptor(rule: type[Rule]) -> dict[str, Any]:
    """Return the description of a rule, from its page."""
    parts = Page.of(rule)
    why, fix = parts.sections.get("Why", ""), parts.sections.get("Fix", "")
    found = {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": sentence(_flat(parts.summary) or rule.name)},
        "fullDescription": {"text": _flat(f"{parts.summary}\n\n{why}") or rule.name},
        "help": {"text": _flat(fix) or rule.name, "markdown": page(rule)},
        "defaultConfiguration": {"level": LEVELS[rule.severity]},
        "properties": {
            "problem.severity": PROBLEMS[rule.severity],
            "tags": [str(rule.symptom), rule.scope],
        },
    }
    if rule.code[:3] in FAMILIES:  # others have no page in trimtab's documentation
        found["helpUri"] = f"{_about()['Rules']}{rule.code.lower()}{_about()['Suffix']}"
    return found


def _unregistered(finding: Finding) -> dict[str, Any]:
    """Return the description of a rule of which nothing but a finding is known."""
    return {
        "id": finding.code,
        "name": finding.name,
        "shortDescription": {"text": finding.name},
        "defaultConfiguration": {"level": LEVELS[finding.severity]},
    }


def _result(finding: Finding, rule_index: int, seen: Counter[str]) -> dict[str, Any]:
    location: dict[str, Any] = {}
    if finding.file is not None:
        location["physicalLocation"] = _physical(finding)
    if finding.site:
        location["logicalLocations"] = [_logical(finding.site, in_file=finding.file is not None)]
    identity = _fingerprint(finding)
    seen[identity] += 1
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule_index,
        "level": LEVELS[finding.severity],
        "message": {"text": finding.message},
        "partialFingerprints": {FINGERPRINT: f"{identity}:{seen[identity]}"},
        "properties": plain(_properties(finding)),
    }
    if location:
        result["locations"] = [location]
    if edits := _edits(finding):
        changes = [{**location["physicalLocation"], "replacements": edits}]
        changes[0].pop("region", None)
        result["fixes"] = [{"description": {"text": finding.fix}, "artifactChanges": changes}]
    if finding.also:
        others = [_logical(site, in_file=finding.file is not None) for site in finding.also]
        result["relatedLocations"] = [{"logicalLocations": [each]} for each in others]
    if finding.count > 1:
        result["occurrenceCount"] = finding.count
    return result


def _properties(finding: Finding) -> dict[str, Any]:
    """Return what SARIF has no word for."""
    whole = finding.to_dict()
    return {key: whole[key] for key in ("symptom", "step", "evidence", "fix", "consequences")}


def _physical(finding: Finding) -> dict[str, Any]:
    region = {"startLine": finding.line, "startColumn": finding.column}
    uri = _uri(finding.file or "")
    base = {} if uri.startswith("file:") else {"uriBaseId": "%SRCROOT%"}
    found: dict[str, Any] = {"artifactLocation": {"uri": uri, **base}}
    if finding.line is not None:
        found["region"] = {key: value for key, value in region.items() if value is not None}
    return found


def _edits(finding: Finding) -> list[dict[str, Any]]:
    """Return the replacements of a remedy that changes text; its columns are those of SARIF."""
    remedy = finding.remedy
    if remedy is None or remedy.action != "edit" or finding.file is None:
        return []
    keys = ("startLine", "startColumn", "endLine", "endColumn")
    return [
        {
            "deletedRegion": dict(zip(keys, place, strict=True)),
            "insertedContent": {"text": text},
        }
        for *place, text in remedy.args.get("edits", ())
    ]


def _uri(file: str) -> str:
    """Return a relative reference for a relative path, and a `file:` URI for an absolute one."""
    path = Path(file)
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _logical(site: str, *, in_file: bool) -> dict[str, Any]:
    names = {"fullyQualifiedName": site, "name": site.rpartition(".")[2] or site}
    return names | {"kind": "function" if in_file else "module"}


def _fingerprint(finding: Finding) -> str:
    """Return what stays the same when lines move and numbers change."""
    words = re.sub(r"[0-9][0-9.,e+-]*", "#", finding.what)
    parts = [finding.code, _uri(finding.file or ""), finding.site, words]
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


def _flat(text: str) -> str:
    """Return a text without its line breaks within paragraphs."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(p.split()) for p in paragraphs)


@functools.cache
def _about() -> Mapping[str, str]:
    """Return version and addresses of the package, from what is installed.

    Without a `Documentation` address in the package's metadata, pages are named by a package URL.
    """
    try:
        known = metadata("trimtab")
    except PackageNotFoundError:
        version, addresses = "0.0.0", {}
    else:
        version = known["Version"]
        pairs = (line.split(",", 1) for line in known.get_all("Project-URL") or ())
        addresses = {label.strip().lower(): url.strip() for label, url in pairs}
    base = addresses.get("documentation", "").rstrip("/")
    package = f"pkg:pypi/trimtab@{version}"
    return {
        "Version": version,
        "Home": base or package,
        "Rules": f"{base}/rules/" if base else f"{package}#docs/rules/",
        "Suffix": ".html" if base else ".md",
    }
