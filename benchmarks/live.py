"""How much memory a program takes, from its shapes alone: what is stored at once, at most, while its operations run.

    peak(jax.make_jaxpr(function)(*shapes))

An estimate of what a compiler plans that runs operations in the order in which they were traced. What an operation
makes is stored until its last reader has run, and an elementwise operation may write where it reads; what only results
are made of, elementwise, takes nothing: an optimiser's update is one sweep. Calls and rematerialised blocks run in
their places; loops hold one iteration beside what goes in and comes out; of branches the largest counts. A compiler
that fuses operations, as those for accelerators do, takes less.
"""

import math
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Literal

CALLS = {"jit", "pjit", "closed_call", "remat", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call"}
VIEWS = {"copy", "copy_p", "expand_dims", "reshape", "squeeze", "stop_gradient", "transpose"}  # the same numbers
ELEMENTWISE = {
    "abs", "add", "add_any", "and", "broadcast_in_dim", "ceil", "clamp", "convert_element_type", "cos", "div", "eq",
    "erf", "erf_inv", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "iota", "is_finite", "le", "log",
    "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "reduce_precision", "rem", "rev",
    "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "sub", "tan", "tanh", "xor",
}  # fmt: skip


class Operation(NamedTuple):
    """One that is no call: the numbers of the values that it reads and makes."""

    name: str
    inputs: tuple[int | None, ...]  # None: a number that is part of the program
    outputs: tuple[int, ...]
    parameters: dict


class Program(NamedTuple):
    """A program whose calls are replaced by what they run."""

    arguments: list[int]  # and behind them its constants
    operations: list[Operation]
    results: tuple[int | None, ...]
    sizes: list[int]  # bytes of each value


def flat(jaxpr) -> Program:
    sizes, operations, constants = [], [], []

    def new(variable) -> int:
        sizes.append(size(variable))
        return len(sizes) - 1

    def walk(jaxpr, arguments) -> list:
        known = dict(zip(jaxpr.invars, arguments)) | {variable: new(variable) for variable in jaxpr.constvars}
        constants.extend(known[variable] for variable in jaxpr.constvars)
        find = lambda atoms: tuple(None if isinstance(atom, Literal) else known[atom] for atom in atoms)
        for equation in jaxpr.eqns:
            name, inputs = equation.primitive.name, find(equation.invars)
            if name in CALLS:
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                made = walk(opened(inner), inputs)
            elif name in VIEWS:
                made = inputs
            else:
                made = [new(variable) for variable in equation.outvars]
                parameters = equation.params | (fed(equation) if name == "scan" else {})
                operations.append(Operation(name, inputs, tuple(made), parameters))
            known |= dict(zip(equation.outvars, made))
        return find(jaxpr.outvars)

    jaxpr = opened(jaxpr)
    arguments = [new(variable) for variable in jaxpr.invars]
    results = walk(jaxpr, arguments)
    return Program([*arguments, *constants], operations, results, sizes)


def opened(jaxpr):
    return jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr


class Step(NamedTuple):
    """What an operation stores, and which stored values it reads."""

    operation: Operation | None
    stored: set[int]
    read: set[int]


def steps_of(program: Program) -> tuple[list[Step], set[int]]:
    """The operations that store something, then the results; and those of the results which nothing has stored."""
    used, needed, inner = [], set(program.results), {None}  # inner: what something else than a result needs
    for operation in reversed(program.operations):
        if needed.intersection(operation.outputs):
            used.append(operation)
            needed.update(operation.inputs)
            if operation.name not in ELEMENTWISE or inner.intersection(operation.outputs):
                inner.update(operation.inputs)
    sources = {value: {value} for value in program.arguments} | {None: set()}  # the stored values behind each value
    behind = lambda values: set().union(*(sources[value] for value in values))
    steps = []
    for operation in reversed(used):
        read = behind(operation.inputs)
        stored = {value for value in operation.outputs if operation.name not in ELEMENTWISE or value in inner}
        sources |= {value: {value} if value in stored else read for value in operation.outputs}
        if stored:
            steps.append(Step(operation, stored, read | stored))
    results = behind(program.results)
    return [*steps, Step(None, set(), results)], set(program.results) - results - {None}


def peak(jaxpr, donated=()) -> int:
    """Bytes. The arguments are held throughout, but those at the positions `donated`, which the results may replace."""
    program = flat(jaxpr)
    total = lambda values: sum(program.sizes[value] for value in values)
    steps, fresh = steps_of(program)
    last = {value: index for index, step in enumerate(steps) for value in step.read}
    given = {program.arguments[position] for position in donated}
    held = set(program.arguments) - given
    live = most = total(program.arguments)
    for index, (operation, stored, read) in enumerate(steps[:-1]):
        gone = total(value for value in read - held if last[value] == index)
        # An elementwise operation may write where it reads.
        at_once = total(stored) - (min(gone, total(stored)) if operation.name in ELEMENTWISE else 0)
        most = max(most, live + at_once + inside(operation))
        live += total(stored) - gone
    replaced = total(value for value in given if last.get(value) == len(steps) - 1)
    return max(most, live + max(total(fresh) - replaced, 0))


def inside(operation: Operation) -> int:
    """What a loop or branch takes beside its operands and results."""
    size_of = lambda variables: sum(size(variable) for variable in variables)
    parameters = operation.parameters
    if operation.name == "cond":
        branches = [opened(branch) for branch in parameters["branches"]]
        return max(max(peak(branch) - size_of(branch.invars) - size_of(branch.outvars) for branch in branches), 0)
    if operation.name == "scan":
        body, constants = opened(parameters["jaxpr"]), parameters["constants"]
        outside = constants + parameters["carry"]
    elif operation.name == "while":
        body, constants = opened(parameters["body_jaxpr"]), parameters["body_nconsts"]
        outside = len(body.invars)
    else:
        return 0
    # The carry of an iteration lies where the loop's result will: that is counted outside.
    return peak(body, donated=range(constants, len(body.invars))) - size_of(body.invars[:outside])


def fed(scan) -> dict[str, int]:
    """How many constants and carried values a scan's body takes before its slices; of an equation.

    From shapes: slices, and what is stacked, have an axis less inside. Versions of jax name the numbers differently.
    """
    body = opened(scan.params["jaxpr"])
    same = lambda outer, inner: sum(a.aval.ndim == b.aval.ndim for a, b in zip(outer, inner, strict=True))
    carry = same(scan.outvars, body.outvars)
    return {"constants": same(scan.invars, body.invars) - carry, "carry": carry}


def size(variable) -> int:
    return math.prod(variable.aval.shape) * variable.aval.dtype.itemsize
