"""Mutation check: break each loss in every small way there is, and see the hand-computed cases notice.

Operators, comparisons, numbers, signs, arguments, clamps and assertions of each module are changed one at a time in its syntax tree; the
broken module is executed and its cases must fail on it. Not one may survive.
"""

from __future__ import annotations

import ast
import copy
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import keel.losses

FOLDER = Path(keel.losses.__file__).parent

SWAPPED_OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CHANGED_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.Eq: (ast.NotEq,),
}
SWAPPED_CALLS = {
    "minimum": "maximum",
    "maximum": "minimum",
    "exp": "expm1",
    "expm1": "exp",
    "zeros_like": "ones_like",
    "ones_like": "zeros_like",
}
DROPPED_METHODS = {"clamp", "square", "double"}  # x.clamp(...) -> x


def _mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """(kind, replacement) of every way to break this one node; None deletes a statement."""
    match node:
        case ast.BinOp() if type(node.op) in SWAPPED_OPERATORS:
            yield "operator", ast.BinOp(node.left, SWAPPED_OPERATORS[type(node.op)](), node.right)
        case ast.UnaryOp(op=ast.USub()):
            yield "sign", node.operand
        case ast.Compare(ops=[op]) if type(op) in CHANGED_COMPARISONS:
            for other in CHANGED_COMPARISONS[type(op)]:
                yield f"compare-{other.__name__}", ast.Compare(node.left, [other()], node.comparators)
        case ast.Constant(value=bool(value)):
            yield "flag", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "number", ast.Constant(value + 1)
        case ast.Assert():
            yield "assert", None
        case ast.Expr(value=ast.Call(func=ast.Name())):
            yield "check", None
        case ast.Call(func=function):
            yield from _call_mutations(node, function)


def _call_mutations(node: ast.Call, function: ast.expr) -> Iterator[tuple[str, ast.AST]]:
    name = function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    if isinstance(function, ast.Attribute) and name in SWAPPED_CALLS:
        yield "call", ast.Call(ast.Attribute(function.value, SWAPPED_CALLS[name], ast.Load()), node.args, node.keywords)
    if isinstance(function, ast.Attribute) and name in DROPPED_METHODS:
        yield f"dropped-{name}", function.value
    if name in {"clamp", "where", "_inverse"} and len(node.args) >= 2:
        yield "arguments", ast.Call(function, [*node.args[:-2], node.args[-1], node.args[-2]], node.keywords)


def mutants(name: str) -> Iterator[tuple[str, str]]:
    """(what was done, source) of every mutant of one loss module."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    decorators = {id(n) for c in ast.walk(tree) if isinstance(c, ast.ClassDef) for d in c.decorator_list for n in ast.walk(d)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in decorators:  # frozen and slots are not what is computed
            continue
        for kind, replacement in _mutations(node):
            broken = copy.deepcopy(tree)
            target = list(ast.walk(broken))[index]
            new = ast.Pass() if replacement is None else copy.deepcopy(replacement)
            _replace(broken, target, new)
            yield f"{name} {kind}: {ast.unparse(node)}", ast.unparse(ast.fix_missing_locations(broken))


def _replace(tree: ast.AST, target: ast.AST, new: ast.AST) -> None:
    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is target else self.generic_visit(node)

    Swap().visit(tree)


def _execute(source: str) -> types.ModuleType:
    module = types.ModuleType("broken_loss")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, "<mutant>", "exec"), module.__dict__)
    return module


def _survives(case, source: str) -> bool:
    try:
        case(_execute(source))
    except Exception:
        return False
    return True


@pytest.mark.filterwarnings("ignore:var")  # a mutant may well take the variance of nothing
def test_the_cases_catch_every_mutant(cases, loss_name):
    tried = list(mutants(loss_name))
    survivors = [what for what, source in tried if _survives(cases[loss_name], source)]
    assert tried, "no mutant was made: the check checks nothing"
    assert survivors == []
