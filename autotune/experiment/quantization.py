"""The section of an experiment file that restricts the space."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict, Field, create_model, model_validator

from autotune.config import Granularity, Precision, QuantizedType
from autotune.experiment.approach import EXCLUDED, Approach, Train
from autotune.experiment.section import (
    Algorithms,
    GranularityText,
    OneOrMore,
    Section,
    broken_rule,
)
from autotune.recipe import RECIPE_FIELDS
from autotune.restriction import OpRestriction, SchemeRestriction, SpaceRestriction
from autotune.space import RecipeSpace


class WeightScheme(Section):
    """Choices allowed for weights."""

    dtype: OneOrMore[QuantizedType] | None = None
    """Integer types."""
    symmetric: bool | None = None
    """Whether ranges are symmetric around zero."""
    granularity: OneOrMore[GranularityText] | None = None
    """One scale for the tensor, one for each output channel, or, as `per_group:32`, one for each group of values."""

    def restriction(self) -> SchemeRestriction:
        """The same, as a space understands it."""
        granularity = None if self.granularity is None else tuple(map(Granularity.parse, self.granularity))
        return SchemeRestriction(dtype=self.dtype, symmetric=self.symmetric, granularity=granularity)


class ActivationScheme(WeightScheme):
    """Choices allowed for the tensors that an op reads."""

    algorithm: Algorithms | None = None
    """Calibration algorithms: least_error, minmax, kl, mse, percentile (any), or one, such as percentile:99.99."""


class OpChoices(Section):
    """Choices allowed for some ops. A choice that is not mentioned stays free."""

    precision: OneOrMore[Precision] | None = None
    """Precisions."""
    activation: ActivationScheme = ActivationScheme()
    """The tensors that the op reads."""
    weight: WeightScheme = WeightScheme()
    """Constant weights of the ops."""

    def restriction(self) -> OpRestriction:
        """The same, as a space understands it."""
        return OpRestriction(
            precision=self.precision,
            activation=self.activation.restriction(),
            weight=self.weight.restriction(),
            algorithm=self.activation.algorithm,
        )


if TYPE_CHECKING:

    class Recipes(Section):
        """Choices allowed for the graph as a whole; made of the fields of :class:`RecipeSpace`."""

else:

    class _WithOptions(Section):
        # The adapter declares further keys.
        model_config = ConfigDict(extra="allow")

    Recipes = create_model(
        "Recipes",
        __base__=_WithOptions,
        __doc__="What is allowed for the graph as a whole.",
        **{
            name: (OneOrMore[typing.get_args(hint)[0]] | None, None)
            for name, hint in typing.get_type_hints(RecipeSpace).items()
            if name in RECIPE_FIELDS
        },
    )


class Quantization(Section):
    """Choices allowed for ops and the graph; without this section, all that the framework offers here."""

    approach: Approach = Approach.AUTO
    """`static`: ranges of activations come from calibration; `dynamic`: each call finds its own; `auto`: either;
    `quant_aware_training`: as `static`, and where no candidate keeps the target, `train` trains the best ones."""
    train: Train | None = None
    """The training of `approach: quant_aware_training`."""
    op_type: dict[str, OpChoices] = Field(default_factory=dict)
    """By op type, as in `Conv: {weight: {granularity: per_channel}}`."""
    op_name: dict[str, OpChoices] = Field(default_factory=dict)
    """By op name, or by a pattern such as `block1/*`; comes before `op_type`."""
    recipes: Recipes = Recipes()
    """Choices for the graph as a whole."""

    @model_validator(mode="after")
    def _trained_by_someone(self) -> Self:
        trains = self.approach is Approach.QUANT_AWARE_TRAINING
        if trains and self.train is None:
            raise broken_rule("`approach: quant_aware_training` needs `train: {function: my_module:train}` beside it")
        if self.train is not None and not trains:
            raise broken_rule(
                f"`train` goes with `approach: quant_aware_training`, but the approach is {self.approach}"
            )
        return self

    @property
    def options(self) -> dict[str, tuple[Any, ...] | None]:
        """Values allowed for options of the adapter's own, as the file has them; None where all is."""
        given = (self.recipes.model_extra or {}).items()
        return {
            name: tuple(values) if isinstance(values, list) else None if values is None else (values,)
            for name, values in given
        }

    def restriction(self) -> SpaceRestriction:
        """The same, as a space understands it."""
        recipe = {name: getattr(self.recipes, name) for name in type(self.recipes).model_fields} | self.options
        return SpaceRestriction(
            op_type={name: choices.restriction() for name, choices in self.op_type.items()},
            op_name={name: choices.restriction() for name, choices in self.op_name.items()},
            recipe={name: values for name, values in recipe.items() if values is not None},
            excluded=EXCLUDED[self.approach],
        )
