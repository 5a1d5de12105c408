"""Programs compute every node once and let values go after their last use."""

import subprocess
import sys
import weakref

import numpy as np

from magg.statistics.segments import (
    Block,
    Form,
    Kind,
    Node,
    Program,
    column,
    constant,
    elementwise,
    per_segment,
    reachable,
    spread,
)

BLOCK = Block({"x": np.arange(10.0)}, np.array([9, 8, 1, 2, 3]), np.array([2, 3]))


def add_up(block, values):
    return np.add.reduceat(values, block.starts)


def total(node):
    return per_segment("total", add_up, node)


def test_a_block_gathers_its_rows_in_the_order_of_segments():
    assert Program([column("x")]).run(BLOCK)[0].tolist() == [9, 8, 1, 2, 3]
    assert Program([total(column("x"))]).run(BLOCK)[0].tolist() == [17, 6]


def test_rows_given_by_a_slice_are_not_copied():
    x = np.arange(10.0)
    block = Block({"x": x}, slice(2, 5), np.array([3]))
    assert np.shares_memory(Program([column("x")]).run(block)[0], x)


def test_values_of_segments_are_repeated_where_they_meet_rows():
    node = elementwise(np.subtract, column("x"), total(column("x")))
    assert node.kind is Kind.ROW
    assert Program([node]).run(BLOCK)[0].tolist() == [9 - 17, 8 - 17, 1 - 6, 2 - 6, 3 - 6]


def test_constants_meet_as_constants():
    node = elementwise(np.add, constant(1), constant(2))
    assert (node.kind, node.value) == (Kind.CONSTANT, 3.0)
    assert spread(node) is node


def test_a_node_used_often_is_computed_once():
    calls = []

    def record(block, values):
        calls.append(1)
        return add_up(block, values)

    once = per_segment("recorded", record, column("x"))
    again = per_segment("recorded", record, column("x"))
    results = Program([once, elementwise(np.add, once, again), again]).run(BLOCK)
    assert [result.tolist() for result in results] == [[17, 6], [34, 12], [17, 6]]
    assert len(calls) == 1


def test_values_are_let_go_after_their_last_use():
    seen = []

    def make(block):
        values = np.zeros(5)
        seen.append(weakref.ref(values))
        return values

    def check(block, values):
        assert seen[0]() is None
        return values

    made = Node("made", Kind.ROW, Form.FLOAT, make)
    root = per_segment("check", check, total(made))
    Program([root]).run(BLOCK)


def test_nodes_come_after_their_inputs():
    root = elementwise(np.subtract, column("x"), total(column("x")))
    seen = set()
    for node in reachable(root):
        assert all(source.key in seen for source in node.inputs)
        seen.add(node.key)
    assert root.key in seen


def test_importing_the_package_brings_in_nothing_heavy():
    code = (
        "import sys, magg.statistics; heavy = {'pandas', 'mortie', 'scipy', 'h5py', 'zarr', "
        "'importlib.metadata'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
