"""The built-in sets: many languages, no leak between training and test, negatives that are wrong."""

import ast
import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from functools import cache

import pytest
from babel import Locale

from f2jax.data.skip_list import SkipList
from f2jax.data.sources import cldr, open_source, stdlib
from f2jax.errors import UserError
from tests import tiny


@cache
def read(task, split):
    return list(cldr.read_cldr(task, split) if task in cldr.TASKS else stdlib.read_stdlib(split))


def key(text: str) -> str:
    """A test query in other letter case or with other white space would leak as well."""
    return " ".join(text.casefold().split())


def texts(records):
    return {key(text) for record in records for text in (record.query, record.positive, *record.negatives)}


TASKS = [*cldr.TASKS, "code"]


# All sets


@pytest.mark.parametrize("task", TASKS)
def test_training_and_test_share_no_query_and_no_answer_pair(task):
    train, test = read(task, "train"), read(task, "test")
    assert not {key(record.query) for record in train} & {key(record.query) for record in test}
    pairs = [{frozenset((key(record.query), key(record.positive))) for record in split} for split in (train, test)]
    assert not pairs[0] & pairs[1]


DIGEST = """
import hashlib
from f2jax.data.sources import cldr, stdlib
records = [record for task in cldr.TASKS for record in cldr.read_cldr(task, "test")]
print(hashlib.sha256(repr(records + list(stdlib.read_stdlib("test"))).encode()).hexdigest())
"""


def test_rows_and_their_order_are_the_same_in_every_process():
    """Whatever order a process gives to its sets."""
    records = [record for task in TASKS for record in read(task, "test")]
    here = hashlib.sha256(repr(records).encode()).hexdigest()
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(tiny.ROOT)}
    there = subprocess.run([sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@pytest.mark.parametrize("task", ["translation", "labels", "code"])
def test_a_pair_comes_once(task):
    pairs = Counter((record.query, record.positive) for record in read(task, "train"))
    assert max(pairs.values()) == 1


@pytest.mark.parametrize("spec", ["cldr:kinds", "stdlib:code"])
def test_an_unknown_split_is_refused(spec):
    with pytest.raises(UserError, match="There is no split 'dev'; splits are train and test"):
        open_source(spec, "dev", SkipList())


# Names of the CLDR


def test_the_words_that_the_demo_searches_for_are_names_that_training_leaves_out():
    (line,) = re.findall(r"--query (.+)$", (tiny.ROOT / "Makefile").read_text(), re.M)[:1]
    words = shlex.split(line)
    meant = {name.text: name for name in cldr.names() if name.text in words and name.entity in cldr.english()}
    assert len({name.language for name in meant.values()}) == 3
    assert all(map(cldr.is_test_name, meant))


def test_names_are_many_in_many_languages():
    names = cldr.names()
    assert 180_000 < len(names) < 230_000 and len(set(names)) == len(names)
    assert sum(count >= 100 for count in Counter(name.language for name in names).values()) > 200
    assert {name.kind for name in names} == {"territory", "language", "script", "currency"}


def test_names_are_those_of_babel():
    names = {(name.kind, name.code, name.language): name.text for name in cldr.names() if name.language == "sw"}
    assert names["territory", "DE", "sw"] == Locale("sw").territories["DE"] == "Ujerumani"
    assert names["language", "ja", "sw"] == Locale("sw").languages["ja"]
    assert all(text != code for (_, code, _), text in names.items())


def test_the_splits_are_of_a_plausible_size():
    for task, rows in (("translation", 134_000), ("kinds", 25_000), ("labels", 17_000)):
        train, test = len(read(task, "train")), len(read(task, "test"))
        assert 0.8 * rows < train < 1.2 * rows, task
        assert 0.03 < test / (train + test) < 0.07, task


def test_no_test_query_is_in_training_in_any_role_of_any_task():
    seen = set().union(*(texts(read(task, "train")) for task in cldr.TASKS))
    held_out = {key(record.query) for task in cldr.TASKS for record in read(task, "test")}
    assert len(held_out) > 5000 and not held_out & seen


def all_records(task):
    return read(task, "train") + read(task, "test")


def test_a_translation_is_the_english_name_and_its_negatives_are_no_translation():
    english, right = cldr.english(), defaultdict(set)
    for name in cldr.names():
        right[key(name.text)].add(key(english.get(name.entity, "")))
    kind_of = defaultdict(set)
    for entity, text in english.items():
        kind_of[text].add(entity.split(":")[0])
    for record in all_records("translation"):
        assert record.kind == "retrieval" and record.symmetric
        assert record.positive == english[record.label] and key(record.positive) in right[key(record.query)]
        assert len(set(record.negatives)) == 7
        assert not {key(text) for text in record.negatives} & right[key(record.query)]
        assert all(record.label.split(":")[0] in kind_of[text] for text in record.negatives), "hard: of the same kind"


def test_a_clustering_row_has_one_mate_and_three_names_that_share_no_class_with_any_meaning_of_the_query():
    classes = defaultdict(set)
    for name in cldr.names():
        classes[key(name.text)].add(continent_or_kind(name))
    for record in all_records("kinds"):
        query = classes[key(record.query)]
        assert record.kind == "clustering" and record.label in query & classes[key(record.positive)]
        assert key(record.positive) != key(record.query)
        assert len(set(record.negatives)) == 3
        assert not any(query & classes[key(text)] for text in record.negatives)


def continent_or_kind(name) -> str:
    """Written anew: the kind, and for a territory with a time zone the continent that the zone is named after."""
    from babel.core import get_global

    zones = get_global("territory_zones").get(name.code) if name.kind == "territory" else None
    return f"{name.kind} {zones[0].split('/')[0]}" if zones else name.kind


def test_a_classification_row_has_a_right_and_a_wrong_word():
    kinds = defaultdict(set)
    for name in cldr.names():
        kinds[key(name.text)].add(name.kind)
    labels = Counter()
    for record in all_records("labels"):
        assert record.kind == "classification" and len(record.negatives) == 1
        assert record.positive == record.label and record.positive in kinds[key(record.query)]
        assert record.negatives[0] in set(cldr.KINDS.values()) - kinds[key(record.query)]
        labels[record.positive, record.negatives[0]] += 1
    assert len(labels) == 4 * 3, "each wrong word comes with each right one"


def test_an_unknown_task_names_the_nearest():
    with pytest.raises(UserError, match="There is no built-in set 'cldr:label'; did you mean 'cldr:labels'"):
        open_source("cldr:label", "train", SkipList())


# The standard library


def test_functions_are_many_and_parse_without_their_docstring():
    functions = stdlib.functions()
    assert len(functions) > 3000
    for function in functions:
        (node,) = ast.parse(function.code).body
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(node) is None and len(function.summary.split()) >= 4


def test_a_docstring_finds_its_function():
    (record,) = [record for record in all_records("code") if record.positive.startswith("def dedent(text):\n")]
    assert record.query.startswith("Remove any common leading whitespace")
    assert "Remove any common" not in record.positive


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A function that reads a standard library of the given files."""

    def functions(**modules: str):
        for name, source in modules.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        monkeypatch.setattr(sysconfig, "get_path", {"stdlib": str(tmp_path)}.__getitem__)
        return [tuple(function) for function in stdlib.functions.__wrapped__()]

    return functions


def test_code_stands_at_the_left_and_survives_long_strings_and_form_feeds(library):
    source = (
        "x = 1\n\f\n"
        "class A:\n"
        "    def page(self):\n"
        '        """Give the page as it is.\n\n        More."""\n\n'
        "        return '''\n"
        "<html>\n"
        "'''\n"
    )
    expected = ("a.py", "Give the page as it is.", "def page(self):\n    return '''\n<html>\n'''")
    assert library(a=source) == [expected]


def test_tests_and_broken_files_are_left_out_and_a_function_comes_once(library):
    source = 'def f(x):\n    """Give the number back."""\n    return x\n'
    short = 'def g(x):\n    """Give it."""\n    return x\n'
    bare = 'def h(x):\n    """Give nothing at all."""\n'
    found = library(b=source + short + bare, c=source, a="def broken(", test__x=source)
    assert [module for module, _, _ in found] == ["b.py"]


def test_no_test_function_is_in_training():
    train, test = read("code", "train"), read("code", "test")
    assert not {record.positive for record in test} & {text for r in train for text in (r.positive, *r.negatives)}
    assert not texts(train) & {key(record.query) for record in test}
    assert 0.05 < len(test) / len(train) < 0.2


def test_negatives_of_a_function_are_others_of_its_module():
    module = {function.code: function.module for function in stdlib.functions()}
    for record in all_records("code"):
        assert record.kind == "retrieval" and record.language == "code:python"
        assert len(set(record.negatives)) == len(record.negatives) <= 7
        assert record.positive not in record.negatives
        assert all(module[text] == module[record.positive] for text in record.negatives)
