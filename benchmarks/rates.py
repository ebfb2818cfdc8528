"""What the benchmarks count and compare with: multiplications of a program, and what a device can do."""

import math

# Dense bfloat16, flop/s of one device, by a part of `device_kind`; the first that fits counts.
PEAKS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12,
    "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12, "TPU v6": 918e12,
}  # fmt: skip


def flops_of(jaxpr) -> float:
    """Multiplications and additions of the products in a program, loops counted as often as they run.

    The compiler's own figure (`cost_analysis`) takes the body of a loop once, which leaves out most of a sampling.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, parameters["dimension_numbers"].rhs_spec
            taps = math.prod(kernel) / kernel[numbers[0]]  # of one output channel
            # A transposed convolution meets a zero between any two entries of a dilated input.
            total += 2 * math.prod(equation.outvars[0].aval.shape) * taps / math.prod(parameters["lhs_dilation"])
        else:
            inner = [flops_of(sub) for sub in programs_in(parameters)]
            total += (max(inner, default=0) if name == "cond" else sum(inner)) * parameters.get("length", 1)
    return total


def programs_in(parameters: dict):
    """The programs that an operation runs: bodies of loops, branches, calls."""
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            program = getattr(each, "jaxpr", each)
            if hasattr(program, "eqns"):
                yield program
