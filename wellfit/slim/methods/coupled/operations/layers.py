"""Convolutions, norms, embeddings, pools."""

from __future__ import annotations

from wellfit.slim.measure.running import tensors_in
from wellfit.slim.methods.coupled.labels import Label
from wellfit.slim.methods.coupled.trace import Axes, Call, Rule


def _convolution(call: Call) -> list[Axes]:
    """Input [N, C, ...] by weight [O, C/g, ...], or [C, O/g, ...] where it is transposed."""
    given, weight = call.axes(call["input"]), call.axes(call["weight"])
    groups, transposed = call["groups"] or 1, bool(call["transposed"])
    _stay(call, [*given[2:], *weight[2:]])
    if groups == 1:
        out, into = (weight[1], weight[0]) if transposed else (weight[0], weight[1])
        call.unite(given[1], into)
    elif transposed:
        out = _grouped_transposed(call, given[1], weight, groups)
    else:
        out = weight[0]
        _join_groups(call, given[1], out, groups)
        call.freeze(weight[1], "it lies within a group of a convolution")
    if call["bias"] is not None:
        call.unite(out, call.axes(call["bias"])[0])
    result = call.result
    return [[given[0], out, *(call.labels.fixed(size) for size in result.shape[2:])]]


def _grouped_transposed(call: Call, given: Label, weight: Axes, groups: int) -> Label:
    """The axis of the outputs: each group makes as many as the second axis of the weight has, and goes as a whole."""
    call.unite(given, weight[0])
    call.freeze(weight[1], "it lies within a group of a convolution")
    per_group = len(weight[1])
    by_group = given.reshape(groups, -1)
    for group in by_group:
        call.labels.merge(group, "groups go as a whole")
    return by_group[:, 0].repeat(per_group)


def _join_groups(call: Call, given: Label, out: Label, groups: int) -> None:
    """A group of channels and the outputs made of it go as a whole."""
    for into, made in zip(given.reshape(groups, -1), out.reshape(groups, -1)):
        call.labels.merge(into, "groups go as a whole")
        call.labels.merge(made, "groups go as a whole")
        call.unite(into[:1], made[:1])


def _batch_norm(call: Call) -> list[Axes]:
    given = call.axes(call["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            call.unite(given[1], call.axes(call[name])[0])
    rest = list(tensors_in(call.result))[1:]
    return [list(given), *([call.labels.fixed(size) for size in extra.shape] for extra in rest)]


def _layer_norm(call: Call) -> list[Axes]:
    given, normed = call.axes(call["input"]), len(call["normalized_shape"])
    last = given[-normed:]
    for name in ("weight", "bias"):
        if call[name] is not None:
            for mine, theirs in zip(last, call.axes(call[name])):
                call.unite(mine, theirs)
    if normed == 1:
        call.trace.restate(last[0], len(given) - 1)
    else:
        _stay(call, last)
    return _with_statistics(call, given)


def _group_norm(call: Call) -> list[Axes]:
    """Groups go as a whole, and their statistics with them; one group of all channels is a norm over those kept."""
    given, groups = call.axes(call["input"]), call["group"]
    for name in ("weight", "bias"):
        if call[name] is not None:
            call.unite(given[1], call.axes(call[name])[0])
    if groups == 1:
        call.trace.restate(given[1], 1)
    else:
        for group in given[1].reshape(groups, -1):
            call.labels.merge(group, "groups go as a whole")
    return _with_statistics(call, given)


def _with_statistics(call: Call, given: Axes) -> list[Axes]:
    rest = list(tensors_in(call.result))[1:]
    return [list(given), *([call.labels.fixed(size) for size in extra.shape] for extra in rest)]


def _embedding(call: Call) -> list[Axes]:
    weight = call.axes(call["weight"])
    call.trace.tables.add(id(call["weight"]))
    call.freeze(weight[0], "its rows are looked up by number")
    return [[*call.axes(call["indices"]), weight[1]]]


def _embedding_bag(call: Call) -> list[Axes]:
    weight = call.axes(call["weight"])
    call.trace.tables.add(id(call["weight"]))
    call.freeze(weight[0], "its rows are looked up by number")
    results = list(tensors_in(call.result))
    rest = [[call.labels.fixed(size) for size in extra.shape] for extra in results[1:]]
    return [[call.labels.fixed(results[0].shape[0]), weight[1]], *rest]


def _pool(call: Call) -> list[Axes]:
    """Places change, samples and channels do not."""
    given = call.axes(call["self"] if call["self"] is not None else call["input"])
    results = list(tensors_in(call.result))
    made = []
    for result in results:
        lead = [place for place, axis in enumerate(given[: min(2, result.dim())]) if len(axis) == result.shape[place]]
        _stay(call, [axis for place, axis in enumerate(given) if place not in lead])
        made.append(
            [given[place] if place in lead else call.labels.fixed(size) for place, size in enumerate(result.shape)]
        )
    return made


def _stay(call: Call, axes: list[Label]) -> None:
    for axis in axes:
        call.freeze(axis, "it is an axis of places")


_POOLS = (
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d", "reflection_pad1d", "reflection_pad2d", "replication_pad1d",
    "replication_pad2d",
)  # fmt: skip

LAYERS: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(
        ["native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"],
        _batch_norm,
    ),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "embedding": _embedding,
    **dict.fromkeys(["_embedding_bag", "_embedding_bag_forward_only"], _embedding_bag),
    **dict.fromkeys(_POOLS, _pool),
}
