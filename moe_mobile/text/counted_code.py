# Copyright the moe-mobile authors.
# SPDX-License-Identifier: Apache-2.0
"""Jinja's compiler, whose programs tell their environment what they do.

Jinja's sandbox lets an environment see calls and operators. Here it also sees turns of loops,
lists and the like that are written out, slices, what is compared, joined and written.
"""

from __future__ import annotations

import jinja2.compiler
import jinja2.nodes


class CountedCode(jinja2.compiler.CodeGenerator):
    """Writes calls of the environment's ``turn``, ``literal``, ``sliced``, ``operand``, ``joined``
    and ``writes``."""

    def visit_For(self, node: jinja2.nodes.For, frame: jinja2.compiler.Frame) -> None:
        node.body.insert(0, jinja2.nodes.ExprStmt(_turn(node.lineno), lineno=node.lineno))
        if node.test is not None:  # each element that it is asked about
            node.test = jinja2.nodes.And(_turn(node.lineno), node.test, lineno=node.lineno)
        super().visit_For(node, frame)

    def visit_List(self, node: jinja2.nodes.List, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.literal(")
        super().visit_List(node, frame)
        self.write(")")

    def visit_Dict(self, node: jinja2.nodes.Dict, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.literal(")
        super().visit_Dict(node, frame)
        self.write(")")

    def visit_Tuple(self, node: jinja2.nodes.Tuple, frame: jinja2.compiler.Frame) -> None:
        is_value = node.ctx == "load"  # else names that are assigned to
        self.write("environment.literal(" if is_value else "")
        super().visit_Tuple(node, frame)
        self.write(")" if is_value else "")

    def visit_Getitem(self, node: jinja2.nodes.Getitem, frame: jinja2.compiler.Frame) -> None:
        is_slice = isinstance(node.arg, jinja2.nodes.Slice)
        self.write("environment.sliced(" if is_slice else "")
        super().visit_Getitem(node, frame)
        self.write(")" if is_slice else "")

    def visit_Compare(self, node: jinja2.nodes.Compare, frame: jinja2.compiler.Frame) -> None:
        self.write("(environment.operand(")
        self.visit(node.expr, frame)
        self.write(")")
        for operand in node.ops:
            self.visit(operand, frame)
        self.write(")")

    def visit_Operand(self, node: jinja2.nodes.Operand, frame: jinja2.compiler.Frame) -> None:
        self.write(f" {jinja2.compiler.operators[node.op]} environment.operand(")
        self.visit(node.expr, frame)
        self.write(")")

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        join = "str_join"
        if frame.eval_ctx.volatile:
            join = "(markup_join if context.eval_ctx.volatile else str_join)"
        elif frame.eval_ctx.autoescape:
            join = "markup_join"
        self.write(f"environment.joined({join}, (")
        for one in node.nodes:
            self.visit(one, frame)
            self.write(", ")
        self.write("))")

    def visit_Output(self, node: jinja2.nodes.Output, frame: jinja2.compiler.Frame) -> None:
        self.writeline(f"environment.writes({len(node.nodes)})")
        super().visit_Output(node, frame)


def _turn(line: int) -> jinja2.nodes.Call:
    """A call, and calls are counted."""
    turn = jinja2.nodes.EnvironmentAttribute("turn", lineno=line)
    return jinja2.nodes.Call(turn, [], [], None, None, lineno=line)
