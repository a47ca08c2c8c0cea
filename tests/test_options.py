"""Options that an adapter declares: carried by recipes, spaces and JSON, known to none of them."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.options import AdapterOption, Price, Touches
from autotune.recipe import BiasCorrection
from autotune.recipe_space import RecipeSpace
from autotune.space import TuningSpace
from tests.test_space import SPACE

LAYOUT = AdapterOption(name="layout", values=("blocked", "plain"), default="plain", touches=Touches.KERNELS)
HINT = AdapterOption(
    name="precision_hint", values=("f32", "bf16"), default="f32", touches=Touches.VALUES | Touches.KERNELS
)
ROUNDING = AdapterOption(name="adaptive", values=("no", "yes"), default="no", touches=Touches.VALUES)
TUNED = AdapterOption(name="tuned", values=("no", "yes"), default="no", touches=Touches.VALUES, price=Price.SECONDS)
RECIPES = RecipeSpace(reduce_range=(False, True), options=(LAYOUT, HINT, ROUNDING, TUNED))
OTHERS = {"layout": "blocked", "precision_hint": "bf16", "adaptive": "yes", "tuned": "yes"}


def test_a_value_that_is_the_default_is_not_named() -> None:
    assert RECIPES.made({}) == RECIPES.made({"layout": "plain", "tuned": "no"}) == Recipe()
    assert RECIPES.preferred == Recipe(options={"layout": "blocked"}), "the preferred value need not be the default"
    changed = RECIPES.changed(Recipe(options=OTHERS), {"layout": "plain", "reduce_range": True})
    assert changed == Recipe(reduce_range=True, options={k: v for k, v in OTHERS.items() if k != "layout"})


def test_every_recipe_is_there_once_and_in_the_space() -> None:
    recipes = list(RECIPES.recipes())
    assert len(recipes) == len(set(recipes)) == RECIPES.size == 2**5
    assert all(recipe in RECIPES for recipe in recipes)
    assert Recipe(options={"layout": "none"}) not in RECIPES
    assert Recipe(options={"another": "yes"}) not in RECIPES
    assert [RECIPES.value(each, "layout") for each in RECIPES.others(Recipe(), "layout")] == ["blocked"]


def test_options_count_as_fields_do_in_search() -> None:
    space = dataclasses.replace(SPACE, recipe=RECIPES)
    assert {f"recipe/{name}" for name in OTHERS} <= set(space.distributions())
    config = dataclasses.replace(space.preferred, recipe=RECIPES.made(OTHERS))
    assert space.decode(space.encode(config)) == config
    assert space.size == dataclasses.replace(space, recipe=RecipeSpace(reduce_range=(False, True))).size * 2**4


@pytest.mark.parametrize("options", [{}, {"layout": "blocked"}, OTHERS])
def test_json_has_options_beside_fields(options: dict[str, str]) -> None:
    config = QuantizationConfig(
        ops={"a": OpConfig(precision=Precision.INT8)}, recipe=Recipe(reduce_range=True, options=options)
    )
    assert config.to_json()["recipe"] == {"reduce_range": True, **options}
    assert QuantizationConfig.from_json(config.to_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_difference_of_options_is_told() -> None:
    before = QuantizationConfig(ops={"a": OpConfig(precision=Precision.INT8)})
    after = dataclasses.replace(before, recipe=Recipe(options={"layout": "blocked"}))
    assert before.diff(after) == "recipe.layout: default -> blocked"


def test_the_quick_recipe_has_what_changes_values_for_nothing() -> None:
    dear = Recipe(bias_correction=BiasCorrection.FULL, options=OTHERS)
    quick = RECIPES.quick(dear)
    assert quick.options == {"precision_hint": "bf16", "adaptive": "yes"}
    assert quick.bias_correction is BiasCorrection.FAST
    executed = RECIPES.executed(dear)
    assert executed.options == {"layout": "blocked", "precision_hint": "bf16", "adaptive": "yes"}
    assert RECIPES.execution_options == ("layout", "precision_hint")


def test_a_space_offers_a_part_of_what_was_declared() -> None:
    narrow = RECIPES.restricted({"layout": ["plain"], "reduce_range": [True]})
    assert narrow["layout"] == ("plain",)
    assert narrow.size == 2**3
    assert narrow.preferred == Recipe(reduce_range=True)
    with pytest.raises(ValueError, match="offers blocked, plain, but got striped"):
        LAYOUT.offering("striped")


def test_names_that_would_be_taken_for_another_are_refused() -> None:
    clash = dataclasses.replace(LAYOUT, name="reduce_range")
    for options in ((clash,), (LAYOUT, LAYOUT)):
        with pytest.raises(ValueError, match="a name of its own"):
            RecipeSpace(options=options)
    with pytest.raises(ValueError, match="a name of its own"):
        Recipe(options={"equalization": "yes"})
    with pytest.raises(ValueError, match="must be text"):
        Recipe.from_json({"layout": 3})
    with pytest.raises(ValueError, match="an identifier"):
        dataclasses.replace(LAYOUT, name="memory layout")


def test_a_space_says_of_options_what_it_says_of_fields() -> None:
    text = repr(TuningSpace(ops=(), recipe=RECIPES))
    assert "smooth_quant=(<SmoothQuant.NONE: 'none'>,), layout=('blocked', 'plain'), precision_hint=" in text
    assert text.endswith("adaptive=('no', 'yes'), tuned=('no', 'yes'), weight_only=(<WeightOnly.RTN: 'rtn'>,)))")
