"""Rules about the code of a chapter: no training loop of its own, nothing from another chapter, plain Python.

By the syntax tree, with the names that imports give resolved. A training loop is a state that a gradient at that state changes,
turn after turn: a cycle of what is made from what, through a gradient and through a name that lives on. A gradient written out
by hand without a factor called step_size (or lr, eta) stays unseen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from lint_model import Book, Chapter, Violation, called, dotted, imports_of, keyword, loaded, resolved, trees_of

def not_python(chapter: Chapter, book: Book) -> list[Violation]:
    """A code cell that is not plain Python: magics hide what they run from every other rule."""
    return [
        chapter.violation(cell, "the cell is not plain Python", "write it without magics and shell escapes")
        for cell in chapter.code_cells if cell.tree is None
    ]  # fmt: skip


# --- another chapter ------------------------------------------------------------------------------------------------------

RUNNERS = {"nbformat", "nbclient", "papermill", "import_ipynb", "runpy", "importlib", "nbconvert", "imp"}
HIDDEN = ("__import__", "import_module", "exec", "eval", "run_path", "run_line_magic", "system")


def imports_of_chapters(chapter: Chapter, book: Book) -> list[Violation]:
    """An import from another chapter, by name, by path or by running it."""
    own = {part for other in book.chapters if other.is_notebook for part in other.name.split("/")}
    found = []
    for cell, tree in trees_of(chapter):
        for node in ast.walk(tree):
            named = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                named = [("." * node.level) + (node.module or "")]
            elif isinstance(node, ast.Call) and called(node) in HIDDEN:
                named = [f"{called(node)}()"]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".ipynb"):
                named = [node.value]
            for name in named:
                root = name.split(".")[0]
                if name.startswith(".") or root in own or root in RUNNERS or name.endswith((".ipynb", "()")):
                    found.append(chapter.violation(
                        cell, f"takes code from elsewhere than the package: {name}",
                        "move what chapters share into lowrank/, with a test, and import it from there",
                    ))  # fmt: skip
    return found


# --- training loops ---------------------------------------------------------------------------------------------------------

OURS = ("loss_gradients", "residuals", "nearest_gradient", "backpropagate")
GRADIENTS = {  # whose results point downhill
    *(f"lowrank.{name}" for name in OURS),
    "torch.autograd.grad", "torch.func.grad", "torch.func.grad_and_value", "torch.func.vjp", "torch.func.jacrev", "torch.func.jacfwd",
    "torch.autograd.functional.jacobian", "torch.autograd.functional.vjp", "torch.autograd.functional.hessian",
    "scipy.optimize.approx_fprime",
}  # fmt: skip
WRAPPERS = ("partial", "grad", "jit", "compile", "grad_and_value", "vmap")
RATES = ("step_size", "learning_rate", "lr", "eta", "η")
TRAINING = "use gradient_descent, gradient_flow or polish of the package; a chapter has no training loop of its own"


def training_loops(chapter: Chapter, book: Book) -> list[Violation]:
    """A training loop of the chapter's own: a state that a gradient at that state changes, again and again; or torch.optim."""
    trees = trees_of(chapter)
    world = _World.of([tree for _, tree in trees])
    found = []
    for cell, tree in trees:
        seen: set[int] = set()
        for node in ast.walk(tree):
            reason = world.trains(node)
            if reason and node.lineno not in seen:
                seen.add(node.lineno)
                line = cell.source.splitlines()[node.lineno - 1].strip()
                found.append(chapter.violation(cell, f'own training loop, {reason}, at "{line[:80]}"', TRAINING))
    return found


@dataclass
class _World:
    """Functions of a chapter, and which of them take gradients."""

    imports: dict[str, str]
    functions: dict[str, ast.AST] = field(default_factory=dict)
    gradients: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, trees: list[ast.Module]) -> _World:
        world = cls(imports_of(trees))
        for node in (n for tree in trees for n in ast.walk(tree)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                world.functions[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                world.functions.update({t.id: node.value for t in node.targets if isinstance(t, ast.Name)})
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and called(node.value) in WRAPPERS:
                world.functions.update({t.id: node.value for t in node.targets if isinstance(t, ast.Name)})
        while True:  # a function that calls one that takes gradients takes gradients
            more = {n for n, f in world.functions.items() if n not in world.gradients and world._gradient_calls(f, inside=True)}
            if not more:
                return world
            world.gradients |= more

    def trains(self, node: ast.AST) -> str:
        """Why `node` is a training loop, or ''."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [f"{node.module}.{a.name}" for a in node.names]
            return "an optimiser of torch" if any(name.startswith("torch.optim") for name in names) else ""
        if isinstance(node, ast.Attribute) and resolved(node, self.imports).startswith("torch.optim"):
            return "an optimiser of torch"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward":
            return "a call of backward()"
        if isinstance(node, (ast.For, ast.While, ast.AsyncFor)):
            tests, targets = ([ast.Expr(node.test)], []) if isinstance(node, ast.While) else ([], [node.target])
            return self._cycle(node.body + tests, targets)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            elements = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            elements += [test for generator in node.generators for test in generator.ifs]
            return self._cycle([ast.Expr(element) for element in elements], [g.target for g in node.generators])
        if isinstance(node, ast.Call) and called(node) in ("reduce", "accumulate", "fixed_point", "map"):
            return self._folds(node)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name in self.gradients:
            inner = [n for n in ast.walk(node) if isinstance(n, ast.Call) and dotted(n.func) == node.name]
            return "a function that calls itself with a gradient" if inner else ""
        return ""

    def _folds(self, node: ast.Call) -> str:
        for argument in [*node.args, *(k.value for k in node.keywords)]:
            function = self.functions.get(argument.id) if isinstance(argument, ast.Name) else argument
            takes = isinstance(argument, ast.Name) and argument.id in self.gradients
            takes = takes or (isinstance(argument, ast.Lambda) and bool(self._gradient_calls(argument, inside=True)))
            if not takes or function is None:
                continue
            if called(node) != "map":
                return f"{called(node)}() over a step along a gradient"
            body = function.body if isinstance(function.body, list) else [ast.Expr(function.body)]
            return self._cycle(body, list(function.args.args))
        return ""

    def _gradient_calls(self, node: ast.AST, *, inside: bool = False) -> list[ast.AST]:
        """Calls within `node` that return a gradient or a step along one; not those in functions that it defines."""
        found, stack = [], [node]
        while stack:
            part = stack.pop()
            if part is not node and not inside and isinstance(part, (ast.FunctionDef, ast.Lambda)):
                continue
            if self._is_gradient(part):
                found.append(part)
            stack += ast.iter_child_nodes(part)
        return found

    def _is_gradient(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Attribute) and node.attr == "grad" and isinstance(node.ctx, ast.Load):
            return resolved(node, self.imports) in ("",)  # w.grad, not torch.autograd.grad, which counts where it is called
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):  # step_size * force(weights): a step by hand
            sides = (node.left, node.right)
            rates = [dotted(side).split(".")[-1].lower() in RATES for side in sides]
            return any(rates) and any(loaded(side) for side, rate in zip(sides, rates) if not rate)
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Call):  # grad(f)(w)
            return self._is_gradient(node.func)
        full, name = resolved(node.func, self.imports), called(node)
        if full in GRADIENTS or (full.startswith("lowrank.") and full.split(".")[-1] in OURS):
            return True
        if name in ("partial", "vmap", "compile"):  # partial(loss_gradients, objective)
            return any(resolved(a, self.imports) in GRADIENTS or dotted(a) in self.gradients for a in node.args)
        if "gradient_descent" in (name, full.split(".")[-1]):  # one step a call is a loop of one's own around it
            steps = keyword(node, "steps")
            return isinstance(steps, ast.Constant) and steps.value == 1
        return name in self.gradients

    def _cycle(self, body: list[ast.stmt], targets: list[ast.AST]) -> str:
        """Whether some name that lives from turn to turn is made from a gradient that depends on it; `targets` are new in each."""
        flow = _Flow(self)
        flow.written |= {getattr(n, "id", getattr(n, "arg", "")) for target in targets for n in ast.walk(target)}
        for statement in body:
            flow.visit(statement)
        for name in flow.carried & set(flow.made):
            through = flow.reach({name})
            for gradient in through & set(flow.steps):
                if name in flow.reach(flow.steps[gradient]):
                    return f"in which {name} follows a gradient at {name}"
        return ""


class _Flow(ast.NodeVisitor):
    """Which names of a loop's body are made from which, in one turn; a gradient is a node of its own."""

    def __init__(self, world: _World):
        self.world = world
        self.made: dict[str, set[str]] = {}
        self.steps: dict[str, set[str]] = {}  # gradient -> names that it was taken at
        self.written: set[str] = set()
        self.carried: set[str] = set()

    def reach(self, names: set[str]) -> set[str]:
        """Names, and gradients, that `names` depend on, themselves included."""
        found, stack = set(), list(names)
        while stack:
            name = stack.pop()
            if name not in found:
                found.add(name)
                stack += self.made.get(name, set()) | self.steps.get(name, set())
        return found

    def _read(self, node: ast.AST) -> set[str]:
        """Names and gradients that an expression depends on."""
        names = loaded(node)
        bound = {n.id for c in ast.walk(node) if isinstance(c, ast.comprehension) for n in ast.walk(c.target) if isinstance(n, ast.Name)}
        self.carried |= names - self.written - bound
        found = set(names)
        for call in self.world._gradient_calls(node):
            gradient = f"∇{len(self.steps)}"
            at = loaded(call)
            for name in [n.id for n in ast.walk(call) if isinstance(n, ast.Name)]:
                function = self.world.functions.get(name)
                if function is not None:  # also what the function reads from around it
                    at |= loaded(function) - {name}
                    self.carried |= (loaded(function) & set(_written_outside(function))) - self.written
            # what a comprehension draws from is what the gradient was taken at
            at |= {n for c in ast.walk(node) if isinstance(c, ast.comprehension) for n in loaded(c.iter)}
            self.steps[gradient] = at
            found.add(gradient)
        return found

    def _write(self, target: ast.AST, sources: set[str], *, keeps: bool = False) -> None:
        for node in ast.walk(target):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.made.setdefault(node.id, set()).update(sources)
                if keeps:
                    self.carried |= {node.id} - self.written
                self.written.add(node.id)
            elif isinstance(node, (ast.Subscript, ast.Attribute)):
                self._change(_base(node), sources)

    def visit_Assign(self, node):
        sources = self._read(node.value)
        self._inner(node.value)
        for target in node.targets:
            self._write(target, sources)

    def visit_AnnAssign(self, node):
        if node.value:
            self._write(node.target, self._read(node.value))

    def visit_AugAssign(self, node):
        self._write(node.target, self._read(node.value), keeps=True)

    def visit_For(self, node):
        self._write(node.target, self._read(node.iter))
        for statement in (*node.body, *node.orelse):
            self.visit(statement)
        # for w, g in zip(weights, gradients): w -= g   changes the weights
        for name in {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}:
            if any(_changes(statement, name) for statement in ast.walk(node)):
                for base in loaded(node.iter) - set(self.world.gradients):
                    self.made.setdefault(base, set()).add(name)

    def visit_Expr(self, node):
        sources = self._read(node.value)
        self._inner(node.value)
        value = node.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            if _base(value.func) not in self.world.imports:
                self._change(_base(value.func), sources)
        elif isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in self.world.gradients:
            function = self.world.functions[value.func.id]
            for name in {*_written_outside(function), *_changed_arguments(function, value)}:
                self._change(name, sources)

    def _change(self, name: str, sources: set[str]) -> None:
        """What `name` holds changes, and lives on."""
        if name:
            self.carried |= {name} - self.written
            self.made.setdefault(name, set()).update(sources)

    def _inner(self, node: ast.AST) -> None:
        for part in ast.walk(node):
            if isinstance(part, ast.NamedExpr):
                self._write(part.target, self._read(part.value))

    def visit_FunctionDef(self, node):
        return None  # what it does happens where it is called


def _changed_arguments(function: ast.AST, call: ast.Call) -> Iterator[str]:
    """Names that a call of `function` hands over and that it changes in place."""
    if not isinstance(function, (ast.FunctionDef, ast.Lambda)):
        return
    for parameter, argument in zip(function.args.args, call.args):
        changed = {parameter.arg}
        for node in ast.walk(function):  # for w, g in zip(weights, gradients): the cells of `weights`
            if isinstance(node, (ast.For, ast.comprehension)) and parameter.arg in loaded(node.iter):
                changed |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        if any(_changes(node, name) for node in ast.walk(function) for name in changed):
            yield from loaded(argument)


def _changes(statement: ast.AST, name: str) -> bool:
    if isinstance(statement, ast.AugAssign):
        return isinstance(statement.target, ast.Name) and statement.target.id == name
    if isinstance(statement, ast.Call) and isinstance(statement.func, ast.Attribute) and statement.func.attr.endswith("_"):
        return isinstance(statement.func.value, ast.Name) and statement.func.value.id == name
    if isinstance(statement, ast.Assign):
        return any(_base(t) == name for t in statement.targets if isinstance(t, (ast.Subscript, ast.Attribute)))
    return False


def _base(node: ast.AST) -> str:
    """The name that a cell or an attribute belongs to: w of w.data[0]."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _written_outside(function: ast.AST) -> Iterator[str]:
    """Names around a function that it changes."""
    declared = {name for node in ast.walk(function) if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
    yield from declared
    own = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)} - declared
    own |= {a.arg for a in ast.walk(function) if isinstance(a, ast.arg)}
    for node in ast.walk(function):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        for target in targets:
            if isinstance(target, (ast.Subscript, ast.Attribute)):
                yield from loaded(target) - own
        method = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if method.endswith("_") or method in ("append", "update"):
            yield from loaded(node.func.value) - own
