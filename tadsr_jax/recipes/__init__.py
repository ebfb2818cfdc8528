"""A recipe is what a method adds to the one training step: what it draws, generates, and how it scores the outputs.

teacher.py   ResShift's own training         sinsr.py   one step from many        tadsr.py   time-aware distillation
A new method is one file with one function `recipe(family, **losses) -> Recipe`, and one line here.
"""

from tadsr_jax.recipes import sinsr, tadsr, teacher

RECIPES = {"teacher": teacher.recipe, "sinsr": sinsr.recipe, "tadsr": tadsr.recipe}
