"""Rule about the code of a chapter: no draw that no parameter of it seeds."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from lint_model import Book, Chapter, Names, Violation, called, imports_of, keyword, loaded, resolved, trees_of

TORCH_DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson"}
TORCH_LIKE = {"rand_like", "randn_like", "randint_like"}
IN_PLACE = {"normal_", "uniform_", "random_", "bernoulli_", "exponential_", "geometric_", "log_normal_", "cauchy_", "bernoulli", "multinomial",
            "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "orthogonal_", "sparse_"}  # fmt: skip
TORCH_MODULES = {"Linear", "Bilinear", "Conv1d", "Conv2d", "Conv3d", "Embedding", "RNN", "LSTM", "GRU", "MultiheadAttention", "Transformer",
                 "TransformerEncoderLayer", "TransformerDecoderLayer", "Dropout", "AlphaDropout", "LazyLinear", "EmbeddingBag"}  # fmt: skip
NUMPY_SEEDED = {"default_rng", "SeedSequence", "PCG64", "PCG64DXSM", "Philox", "MT19937", "SFC64", "RandomState"}
SCIPY_DRAWS = {"rvs", "differential_evolution", "dual_annealing", "basinhopping", "shgo", "random_rotation", "Sobol", "Halton", "LatinHypercube"}
SKLEARN_DRAWS = {
    "train_test_split", "KMeans", "MiniBatchKMeans", "MLPClassifier", "MLPRegressor", "RandomForestClassifier", "RandomForestRegressor",
    "ExtraTreesClassifier", "GradientBoostingClassifier", "SGDClassifier", "SGDRegressor", "Perceptron", "ShuffleSplit", "StratifiedShuffleSplit",
    "shuffle", "resample", "TruncatedSVD", "GaussianMixture", "TSNE", "LinearSVC", "RandomizedPCA", "NMF", "make_classification", "make_blobs",
    "make_moons", "make_circles", "make_regression", "make_spd_matrix", "FastICA", "BaggingClassifier", "DecisionTreeClassifier",
}  # fmt: skip
SKLEARN_SHUFFLES = {"KFold", "StratifiedKFold", "GroupKFold"}
GLOBAL_STATE = ("torch.manual_seed", "torch.seed", "torch.random.manual_seed", "torch.cuda.manual_seed", "numpy.random.seed", "random.seed")
SEEDED = "draw with generator=torch.Generator().manual_seed(seed), seed a parameter of the chapter"


def unseeded_draws(chapter: Chapter, book: Book) -> list[Violation]:
    """A random draw that no parameter of the chapter seeds."""
    trees = trees_of(chapter)
    imports = imports_of([tree for _, tree in trees])
    names = Names.of([tree for _, tree in trees])
    seeded_later = {
        node.func.value.id
        for _, tree in trees
        for node in ast.walk(tree)
        if called(node) == "manual_seed" and isinstance(getattr(node.func, "value", None), ast.Name)
    }
    rngs = {name for name, made in names.sources.items() if any(isinstance(m, ast.Call) and called(m) == "default_rng" for m in made)}
    context = _Draws(imports, names, chapter.parameters, seeded_later, rngs)
    found = []
    for cell, tree in trees:
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            fault = context.fault(node, parents)
            if fault:
                line = cell.source.splitlines()[node.lineno - 1].strip()
                found.append(chapter.violation(cell, f'{fault} at "{line[:80]}"', SEEDED))
    return found


@dataclass
class _Draws:
    imports: dict[str, str]
    names: Names
    parameters: frozenset[str]
    seeded_later: set[str]
    rngs: set[str]

    def fault(self, node: ast.AST, parents: dict) -> str:
        """What is wrong with the draw that `node` is, or ''."""
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(getattr(node, "ctx", None), ast.Load):
            return self._passed_on(node, parents.get(node))
        return self._call(node, parents) if isinstance(node, ast.Call) else ""

    def _passed_on(self, node, parent) -> str:
        """A drawing function that is named without being called: what calls it cannot be seen."""
        if isinstance(parent, (ast.Attribute, ast.alias)) or (isinstance(parent, ast.Call) and parent.func is node):
            return ""
        if isinstance(parent, ast.Assign):
            return ""  # the name is followed to where it is called
        full = resolved(node, self.imports)
        return f"unseeded draw: {full} is passed on" if self._is_draw(full) and full.split(".")[0] in ("torch", "numpy", "random") else ""

    @staticmethod
    def _is_draw(full: str) -> bool:
        module, _, name = full.rpartition(".")
        return (
            (module == "torch" and name in TORCH_DRAWS | TORCH_LIKE)
            or (module == "numpy.random" and name not in NUMPY_SEEDED | {"Generator", "BitGenerator"})
            or (module == "random" and name != "Random" and name[:1].islower())
        )

    def _call(self, node: ast.Call, parents: dict) -> str:
        full, name = resolved(node.func, self.imports), called(node)
        module, _, last = full.rpartition(".")
        root = full.split(".")[0]
        if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            full = f"{resolved(node.args[0], self.imports)}.{node.args[1].value}"
            return f"unseeded draw: {full} by getattr" if self._is_draw(full) else ""
        if full in GLOBAL_STATE:
            return f"global random state: {full}"
        if self._is_draw(full):
            if root == "torch" and last in TORCH_DRAWS:
                return "" if self._has_generator(node) else f"unseeded draw: {full} without generator="
            return f"unseeded draw: {full}"
        if module in ("secrets", "uuid") or full == "os.urandom":
            return f"unseeded draw: {full}"
        if full in ("random.Random",) or (module == "numpy.random" and last in NUMPY_SEEDED):
            seed = node.args[0] if node.args else next((k.value for k in node.keywords if k.arg in ("seed", "entropy")), None)
            return "" if self._seeded(seed) else f"unseeded draw: {full} without a parameter as seed"
        if full == "torch.Generator":
            return self._generator(node, parents)
        if name == "manual_seed" and not self._seeded(node.args[0] if node.args else None):
            return "unseeded draw: manual_seed without a parameter"
        if name == "seed" and isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            return "unseeded draw: .seed() takes its seed from the machine"
        if module == "torch.nn" and last in TORCH_MODULES:
            return f"unseeded draw: {full} draws from the global state"
        if full.startswith("torch.distributions.") or full in ("torch.dropout", "torch.nn.functional.dropout"):
            return f"unseeded draw: {full} draws from the global state"
        if name in IN_PLACE and isinstance(node.func, ast.Attribute) and not module.startswith("numpy"):
            base = node.func.value
            if isinstance(base, ast.Name) and base.id in self.rngs:
                return ""
            return "" if self._has_generator(node) else f"unseeded draw: {name} without generator="
        if root == "sklearn" and (last in SKLEARN_DRAWS or (last in SKLEARN_SHUFFLES and _true(keyword(node, "shuffle")))):
            return "" if self._seeded(keyword(node, "random_state")) else f"unseeded draw: {full} without random_state="
        if keyword(node, "random_state") is not None and not self._seeded(keyword(node, "random_state")):
            return f"unseeded draw: {full or name} without a parameter as random_state"
        if root == "scipy" and last in SCIPY_DRAWS or (name == "rvs" and isinstance(node.func, ast.Attribute)):
            seeds = [k.value for k in node.keywords if k.arg in ("seed", "rng", "random_state")]
            return "" if seeds and self._seeded(seeds[0]) else f"unseeded draw: {full or name} without rng="
        return ""

    def _generator(self, node: ast.Call, parents: dict) -> str:
        above = parents.get(node)
        if isinstance(above, ast.Attribute) and above.attr == "manual_seed":
            return ""  # the seed itself is looked at where manual_seed is called
        targets = [t.id for t in getattr(above, "targets", ()) if isinstance(t, ast.Name)]
        return "" if any(t in self.seeded_later for t in targets) else "unseeded draw: torch.Generator() without manual_seed"

    @staticmethod
    def _has_generator(node: ast.Call) -> bool:
        value = keyword(node, "generator")
        return value is not None and not (isinstance(value, ast.Constant) and value.value is None)

    def _seeded(self, seed: ast.AST | None) -> bool:
        """Whether a parameter stands behind `seed`; a torch generator or NumPy's also will do."""
        if seed is None or isinstance(seed, ast.Constant):
            return False
        behind = set().union(*(loaded(part) for part in self.names.behind(seed, 12)))
        return bool(behind & self.parameters)


def _true(value: ast.AST | None) -> bool:
    return isinstance(value, ast.Constant) and value.value is True
