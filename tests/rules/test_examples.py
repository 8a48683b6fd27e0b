"""The example of each rule over signals triggers it."""

import time
import warnings

import pytest

from trimtab.findings import registered
from trimtab.rules import load_rules

MAX_SECONDS = 10.0
"""The aim is two; a busy machine takes longer."""

load_rules()
RULES = registered("run")


def flat(findings):
    for finding in findings:
        yield finding
        yield from flat(finding.consequences)


@pytest.mark.parametrize("code", RULES)
def test_example_triggers_its_rule(code):
    namespace: dict[str, object] = {}
    began = time.perf_counter()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # examples are faulty on purpose
        exec(RULES[code].example, namespace)

    found = list(flat(namespace["findings"]))
    assert code in {f.code for f in found}, [str(f) for f in found]
    assert time.perf_counter() - began < MAX_SECONDS
