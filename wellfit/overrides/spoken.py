"""What people call overrides and their values where wellfit calls them otherwise: for error messages only."""

from __future__ import annotations

OVERRIDES = {
    "binarize": "binarise", "cluster": "share", "distill": "distil", "distillation": "distil", "eval": "evaluate",
    "pretrained": "start", "pruning": "prune", "qat": "quantise", "quantize": "quantise", "resume": "start",
    "save-weights": "keep-weights", "sparse": "prune", "sparsity": "prune", "test": "evaluate",
    "weight-sharing": "share",
    "amp": "precision", "autocast": "precision", "batch": "batch-size", "bf16": "precision", "bs": "batch-size",
    "clip": "clip-norm", "clip-grad": "clip-norm", "clip-grad-norm": "clip-norm", "clip-grad-value": "clip-value",
    "cuda": "device", "decay": "weight-decay", "dtype": "precision", "epochs": "stop-after", "fp16": "precision",
    "gpu": "device", "grad-accum": "accumulate", "grad-clip": "clip-norm", "gradient-accumulation": "accumulate",
    "gradient-clipping": "clip-norm", "half": "precision", "iterations": "stop-after", "l2": "weight-decay",
    "learning-rate": "lr", "max-grad-norm": "clip-norm", "max-norm": "clip-norm", "max-steps": "stop-after",
    "nonlinearity": "activation", "opt": "optimizer", "scheduler": "schedule", "skip": "residual",
    "steps": "stop-after", "wd": "weight-decay",
}  # fmt: skip
"""By a name that is none, the override that is meant."""

VALUES = {
    "adam-w": "adamw", "batchnorm": "batch", "bf16": "bfloat16", "ce": "cross-entropy", "crossentropy": "cross-entropy",
    "double": "float64", "fp16": "float16", "fp32": "float32", "fp64": "float64", "glorot": "xavier",
    "groupnorm": "group", "half": "float16", "instancenorm": "instance", "kaiming": "he", "layernorm": "layer",
    "leakyrelu": "leaky-relu", "swish": "silu",
}  # fmt: skip
"""By a value that is none, the one that is meant, where it is one of the choices."""
