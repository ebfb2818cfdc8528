"""A recipe is what a method adds to the one training step: what it draws, generates, and how it scores the outputs.

teacher.py   ResShift's own training         sinsr.py   one step from many        tadsr.py   time-aware distillation
addsr.py     SeeSR in one to four steps      tad_seesr.py   SeeSR in one
They share targets.py, what losses are measured against, and objectives.py, how terms make a loss.
A new method is one file with one function `recipe(family, **losses) -> Recipe`, and one line here.
"""

from tadsr_jax.recipes import addsr, sinsr, tad_seesr, tadsr, teacher

RECIPES = {
    "teacher": teacher.recipe,
    "sinsr": sinsr.recipe,
    "tadsr": tadsr.recipe,
    "addsr": addsr.recipe,
    "tad_seesr": tad_seesr.recipe,
}
