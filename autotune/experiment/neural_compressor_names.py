"""Names of Intel Neural Compressor 1.x, LPOT and iLiT, and what they are called here."""

from __future__ import annotations

from collections.abc import Mapping

FRAMEWORKS: Mapping[str, str] = {
    "onnxrt_integerops": "onnxruntime",
    "onnxrt_integer": "onnxruntime",
    "onnxrt_qlinearops": "onnxruntime",
    "onnxrt_qlinear": "onnxruntime",
    "onnxrt_qdq": "onnxruntime",
    "pytorch_fx": "pytorch",
    "pytorch_ipex": "pytorch",
    "tensorflow_itex": "tensorflow",
}
APPROACHES: Mapping[str, str] = {
    "post_training_static_quant": "static",
    "post_training_dynamic_quant": "dynamic",
    "post_training_auto_quant": "auto",
}
OBJECTIVES: Mapping[str, str] = {"performance": "latency", "modelsize": "size", "footprint": "memory"}
STRATEGIES: Mapping[str, str] = {"tpe": "bayesian", "sigopt": "bayesian", "hawq_v2": "hawq"}
METRICS: Mapping[str, str] = {
    "Accuracy": "topk",
    "MSE": "mse",
    "RMSE": "rmse",
    "MAE": "mae",
    "F1": "f1",
    "SQuADF1": "squad_f1",
    "ROC": "roc_auc",
    "mAP": "map",
    "COCOmAP": "map",
    "VOCmAP": "map",
}
"""Metrics whose options are other ones here, so that they have to be written anew."""

DTYPES: Mapping[str, str] = {"uint8": "u8", "int8": "s8"}

NOTES: Mapping[str, str] = {
    "version": "the format has no version here",
    "device": "this machine's CPU is what is tuned for",
    "model.name": "a run is named after the model's file",
    "model.inputs": "inputs are read from the model",
    "model.outputs": "outputs are read from the model",
    "quantization.recipes": "the search decides op by op; `quantization.op_name: {NAME: {precision: "
    "fp32}}` keeps an op in "
    "fp32",
    "evaluation.accuracy.configs": "accuracy is evaluated with `evaluation.performance.threads`",
    "evaluation.performance.iteration": "calls are timed until `evaluation.performance.interval_width` "
    "or `max_seconds` is "
    "reached",
    "evaluation.performance.configs": "`cores_per_instance` is `evaluation.performance.threads` here; "
    "`autotune benchmark` measures "
    "several instances",
    "evaluation.performance.dataloader": "latency is measured on the calibration data, "
    "`evaluation.performance.batch_size` samples in a "
    "call",
    "evaluation.performance.postprocess": "latency is that of the model alone",
    "tuning.tensorboard": "`report.html` shows the histograms of tensors",
    "tuning.diagnosis": "`report.html` and `autotune explain` tell why",
    "tuning.strategy.sigopt_api_token": "no service is asked: `bayesian` runs here",
    "tuning.strategy.sigopt_project_id": "no service is asked: `bayesian` runs here",
    "tuning.strategy.sigopt_experiment_name": "no service is asked: `bayesian` runs here",
}
"""Keys that are left out, and what there is in their place."""

PROBLEMS: Mapping[str, str] = {
    "framework": "is `model.framework` here",
    "tuning.metric": "is `evaluation.accuracy.metric` here, with a `dataset` beside it",
    "tuning.metrics": "is `evaluation.accuracy.metric` here, with a `dataset` beside it",
    "tuning.target": "is `tuning.accuracy_criterion.relative` here",
    "tuning.timeout": "is `tuning.exit_policy.timeout` here, in seconds",
    "tuning.customized_ops": "is `quantization.op_name: {NAME: {precision: fp32}}` here",
    "pruning": "only quantization is done here: remove it",
    "distillation": "only quantization is done here: remove it",
    "mixed_precision": "bf16 and fp16 are precisions of `quantization.op_type` here: remove it",
    "graph_optimization": "bf16 and fp16 are precisions of `quantization.op_type` here: remove it",
    "nas": "only quantization is done here: remove it",
    "quantization.train": "is `quantization.train: {function: my_module:train}` here, see docs/training.md",
    "evaluation.accuracy.multi_metrics": "is `evaluation.accuracy.metrics` here, a list such as "
    "[{metric: topk, k: 1}, {metric: topk, k: "
    "5}]",
    "evaluation.accuracy.postprocess": "outputs are scored as they are: write "
    "`evaluation.accuracy.function: my_module:evaluate`, or shift "
    "the labels in the data",
    "tuning.multi_objectives": "is `strategy: pareto` here, which shows all trade-offs of accuracy and speed",
}
"""Keys without which the run would be another one, and what they are called here."""
