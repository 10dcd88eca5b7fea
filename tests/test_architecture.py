"""The shape of the package: no circular imports, and sizes that only shrink (`tests.structure` prints them)."""

from graphlib import CycleError, TopologicalSorter

import pytest

from tests import structure

#: Exceptions, which may only become fewer.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
MOST_FILES = {"encode on onnx": 22, "decode on onnx": 24, "encode on torch": 31, "decode on torch": 32}


def test_no_module_imports_itself_by_way_of_others():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("audiovq", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 50
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(reversed(error.args[1]))}")


def test_files_and_functions_are_short_enough_to_read():
    long_files = {path for path in structure.modules() if len(path.read_text().splitlines()) > 400}
    long_functions = {name for path in structure.modules() for n, name in structure.functions(path) if n > 60}
    assert {str(path.relative_to(structure.PACKAGE)) for path in long_files} <= LONG_FILES
    assert long_functions <= LONG_FUNCTIONS


def test_encode_and_decode_run_through_few_files():
    for measure in structure.paths():
        assert measure.value <= MOST_FILES[measure.name], f"{measure.name}: {measure.place}"
