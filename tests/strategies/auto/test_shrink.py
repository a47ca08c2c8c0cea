"""``auto`` with size as its objective, where weights come in bits: on computed models, and on a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import autotune
from autotune.config import FP32, OpConfig, Precision, QuantizationConfig, QuantizedType, TensorScheme, WeightOnly
from autotune.space import FP32_SPACE, OpSpace, PrecisionSpace, RecipeSpace, TuningSpace
from autotune.strategies import create_strategy
from autotune.strategies.planning.moves import uniform_configs
from autotune.strategy import Objective, Problem
from autotune.testing.driver import Run
from autotune.testing.synthetic import make_model
from autotune.trial import Measurement

FOUR, EIGHT = OpConfig(precision=Precision.INT4_WEIGHT), OpConfig(precision=Precision.INT8_WEIGHT)
DYNAMIC = PrecisionSpace(
    precision=Precision.INT8_DYNAMIC, weights=(TensorScheme(dtype=QuantizedType.S8, symmetric=True),)
)
BLOCKS = tuple(PrecisionSpace(precision=each) for each in (Precision.INT8_WEIGHT, Precision.INT4_WEIGHT))
BITS = {Precision.FP32: 32, Precision.INT8_DYNAMIC: 8, Precision.INT8_WEIGHT: 8, Precision.INT4_WEIGHT: 4}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """MatMuls and tables whose losses add up, and an op without weights."""

    losses: tuple[float, ...]

    @property
    def space(self) -> TuningSpace:
        ops = [
            OpSpace(name=f"op{i}", op_type="MatMul", precisions=(DYNAMIC, FP32_SPACE, *BLOCKS))
            for i in range(len(self.losses))
        ]
        add = PrecisionSpace(precision=Precision.INT8, activations=(TensorScheme(dtype=QuantizedType.U8),))
        ops.append(OpSpace(name="sum", op_type="Add", precisions=(FP32_SPACE, add)))
        return TuningSpace(ops=tuple(ops), recipe=RecipeSpace(weight_only=(WeightOnly.GPTQ, WeightOnly.RTN)))

    def loss(self, config: QuantizationConfig) -> float:
        share = {Precision.INT4_WEIGHT: 1.0, Precision.INT8_WEIGHT: 0.01, Precision.INT8_DYNAMIC: 0.1}
        total = sum(loss * share.get(config[f"op{i}"].precision, 0.0) for i, loss in enumerate(self.losses))
        return total + (0.0 if config["sum"] == FP32 else 1.0)

    def __call__(self, config: QuantizationConfig) -> Measurement:
        size = sum(BITS[config[f"op{i}"].precision] for i in range(len(self.losses)))
        return Measurement(accuracy=1 - self.loss(config), loss=self.loss(config), speedup=1.0, size_bytes=size)

    def go(self, budget: int = 30, insights: type[_Insights] | None = None) -> Run:
        made = make_model(2).problem(0)
        problem = Problem(
            space=self.space,
            criterion=made.criterion,
            objective=Objective.SIZE,
            insights=(insights or _Insights)(self),  # type: ignore[arg-type]  # nothing else is asked
            seed=0,
        )
        return Run(problem, self).go(create_strategy("auto"), budget)


@dataclass(frozen=True)
class _Insights:
    stored: Stored

    def output_error(self, config: QuantizationConfig) -> float:
        return self.stored.loss(config)


def test_sensitivities_cost_nothing_where_they_are_not_needed() -> None:
    class Deaf(_Insights):
        def output_error(self, config: QuantizationConfig) -> float:
            raise AssertionError(f"asked for {config}")

    assert Stored(losses=(0.001,)).go(insights=Deaf).reason == "target met by the smallest config"


def test_one_evaluation_where_the_smallest_keeps_the_target() -> None:
    run = Stored(losses=(0.001, 0.002)).go()
    assert len(run.evaluated) == 1
    assert run.best.config == QuantizationConfig(
        ops={"op0": FOUR, "op1": FOUR}, recipe=autotune.config.Recipe(weight_only=WeightOnly.GPTQ)
    )
    assert run.reason == "target met by the smallest config"


def test_the_most_sensitive_ops_get_more_bits() -> None:
    stored = Stored(losses=(0.0005,) * 12 + (0.02, 0.03) + (0.0002,) * 12)
    run = stored.go()
    assert run.best.met
    larger = {name for name, choice in run.best.config.ops.items() if choice == EIGHT}
    assert larger == {"op12", "op13"}
    assert len(run.evaluated) <= 1 + int(np.ceil(np.log2(2 * len(stored.losses))))


def test_fp32_where_eight_bits_are_too_few_and_nothing_where_no_bits_are_enough() -> None:
    run = Stored(losses=(5.0, 0.001)).go()
    assert run.best.config["op0"] == FP32
    assert run.best.config["op1"] == EIGHT
    hopeless = Stored(losses=(5.0,)).go()
    assert hopeless.best.config.is_fp32
    assert hopeless.reason == "target missed by every config that is smaller than fp32"


def test_uniform_configs_round_blocks_as_preferred_and_vary_it_nowhere_else() -> None:
    configs = list(uniform_configs(Stored(losses=(0.1, 0.1)).space))
    blocks = [config for config, _ in configs if config.stores_weights_only]
    assert len(blocks) == 2
    assert all(config.recipe.weight_only is WeightOnly.GPTQ for config in blocks)
    assert len({config for config, _ in configs}) == len(configs)
