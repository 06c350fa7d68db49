"""Every small way to break a module: operators, comparisons, numbers, signs, arguments, clamps and assertions are changed one at a time in
its syntax tree. Read by the tests that want none of the broken modules to pass (``runpy``: tests import no tests)."""

from __future__ import annotations

import ast
import copy
import sys
import types
from collections.abc import Iterator
from pathlib import Path

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


def mutants(path: Path) -> Iterator[tuple[str, str]]:
    """(what was done, source) of every mutant of one module."""
    tree = ast.parse(path.read_text())
    silent = {id(n) for part in _not_computed(tree) for n in ast.walk(part)}
    around = {id(child): parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in silent:
            continue
        for kind, replacement in _mutations(node):
            broken = copy.deepcopy(tree)
            target = list(ast.walk(broken))[index]
            new = ast.Pass() if replacement is None else copy.deepcopy(replacement)
            _replace(broken, target, new)
            where = around.get(id(node)) if isinstance(node, ast.Constant) else None
            within = f" in {ast.unparse(where)}" if isinstance(where, ast.expr) else ""  # a number alone says little
            yield f"{path.stem} {kind}: {ast.unparse(node)}{within}", ast.unparse(ast.fix_missing_locations(broken))


def _not_computed(tree: ast.AST) -> Iterator[ast.AST]:
    """Decorators of classes (frozen, slots), annotations, and what a ``zip`` says of lengths that are equal anyhow."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef():
                yield from node.decorator_list
            case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=ast.expr() as annotation):
                yield annotation
            case ast.FunctionDef(returns=ast.expr() as annotation):
                yield annotation
            case ast.keyword(arg="strict"):
                yield node


def _replace(tree: ast.AST, target: ast.AST, new: ast.AST) -> None:
    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return new if node is target else self.generic_visit(node)

    Swap().visit(tree)


def execute(source: str | types.CodeType, name: str = "broken") -> types.ModuleType:
    """The module that this source is, under a name of its own."""
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    exec(compile(source, "<mutant>", "exec") if isinstance(source, str) else source, module.__dict__)
    return module
