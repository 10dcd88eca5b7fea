"""The shape of the package: no circular imports."""

from graphlib import CycleError, TopologicalSorter

import pytest


def test_no_module_imports_itself_by_way_of_others():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("audiovq", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 50
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(f"circular imports: {' -> '.join(reversed(error.args[1]))}")
