"""What a loss expects, and how a prediction and a target become that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError

if TYPE_CHECKING:
    import torch

    from wellfit.overrides.calls import LossCall
    from wellfit.overrides.program import Program

_CLASSES = ("cross_entropy", "nll_loss")
_REGRESSION = {"mse": "mse_loss", "l1": "l1_loss", "smooth-l1": "smooth_l1_loss", "huber": "huber_loss"}


_NAMES = ("softmax", "log_softmax", "sigmoid")


class Raw:
    """Of the outputs of softmax, log_softmax and sigmoid that are still there: what they were made of.

    Beside the tensors, as what is kept in one is saved with it.
    """

    def __init__(self, program: Program) -> None:
        import torch
        import torch.nn.functional as F
        from torch.utils.weak import WeakIdKeyDictionary

        from wellfit.overrides.model._scripting import keep_scriptable

        self._made: Any = WeakIdKeyDictionary()  # output -> (function, its input)
        self._before: Any = None  # while a model is called: those that were made before
        for name in _NAMES:
            for holder in (F, torch, torch.Tensor):
                program.patch(holder, name, self._remembering(name))
            wrapper = getattr(torch, name)
            wrapper.__module__, wrapper.__qualname__ = "torch", name
        keep_scriptable(program, [getattr(holder, name) for holder in (F, torch) for name in _NAMES])

    def _remembering(self, name: str) -> Any:
        import torch

        def make(original: Any) -> Any:
            def function(*args: Any, **kwargs: Any) -> Any:
                result = original(*args, **kwargs)
                given = args[0] if args else kwargs.get("input")
                if given is not result and type(result) is torch.Tensor:
                    self._made[result] = name, given
                return result

            return function

        return make

    def begin_forward(self) -> None:
        """A model is about to be called."""
        from torch.utils.weak import WeakIdKeyDictionary

        if self._before is None:
            self._before, self._made = self._made, WeakIdKeyDictionary()

    def end_forward(self, result: Any) -> None:
        """The call has ended: what was made inside (attention, gates) is forgotten, but for what it gave."""
        from wellfit.overrides.nested import tensors_in

        if self._before is None:
            return
        made, self._made, self._before = self._made, self._before, None
        for tensor in tensors_in(result):
            for each in (tensor, tensor._base):
                held = made.get(each) if each is not None else None
                if held is not None:
                    self._made[each] = held

    def of(self, prediction: torch.Tensor) -> tuple[str, torch.Tensor | None]:
        """(function, its input) of the last function of the model, if it was one of those remembered."""
        held = self._known(prediction)
        if held is not None:
            return held[0], held[1]
        base = prediction._base
        held = self._known(base) if base is not None else None
        if held is None or base is None:
            return "", None
        plain = prediction.is_contiguous() and base.is_contiguous() and prediction.numel() == base.numel()
        rows = held[0] == "sigmoid" or prediction.shape[-1:] == base.shape[-1:]
        if not plain or not rows or held[1].numel() != base.numel():
            return held[0], None
        return held[0], held[1].reshape(prediction.shape)

    def _known(self, tensor: torch.Tensor) -> Any:
        held = self._made.get(tensor)
        return self._before.get(tensor) if held is None and self._before is not None else held


def paired(call: LossCall, raws: Raw, decided: dict[tuple[str, str], Any], where: str) -> str:
    """Give a loss what it expects; says what was done, "" if nothing.

    Raises:
        WellfitError: it is given something wrong that cannot be mended.
    """
    name, raw = raws.of(call.prediction)
    takes_scores = call.function in ("cross_entropy", "binary_cross_entropy_with_logits")
    if takes_scores and name in ("softmax", "sigmoid"):
        call.prediction = _needed(raw, name)
        return f"gets the raw scores instead of {name}'s output"
    if call.function == "binary_cross_entropy" and name == "sigmoid" and raw is not None:
        call.function, call.prediction = "binary_cross_entropy_with_logits", raw
        return "binary_cross_entropy_with_logits of the raw scores"
    if call.function == "binary_cross_entropy" and not name and _wrong(call, decided, where, _no_probabilities):
        call.function = "binary_cross_entropy_with_logits"
        return "binary_cross_entropy_with_logits, as it is given scores"
    if call.function == "nll_loss" and name in ("softmax", "sigmoid"):
        call.prediction = _needed(raw, name).log_softmax(_class_axis(call.prediction))
        return f"gets log_softmax of the scores instead of {name}'s output"
    if call.function == "nll_loss" and not name and _wrong(call, decided, where, _no_log_probabilities):
        call.prediction = call.prediction.log_softmax(_class_axis(call.prediction))
        return "gets log_softmax of what it was given"
    return ""


def _needed(raw: torch.Tensor | None, name: str) -> torch.Tensor:
    if raw is None:
        raise WellfitError(f"between {name} and the loss the prediction is rearranged")
    return raw


def _wrong(call: LossCall, decided: dict[tuple[str, str], Any], where: str, test: Any) -> bool:
    """Asked once for each place: what comes there later may look right by chance."""
    key = (call.function, where)
    if key not in decided:
        decided[key] = test(call.prediction.detach())
    return bool(decided[key])


def _no_probabilities(prediction: torch.Tensor) -> bool:
    return bool((prediction < 0).any() or (prediction > 1).any())


def _no_log_probabilities(prediction: torch.Tensor) -> bool:
    return bool((prediction.exp().sum(_class_axis(prediction)) - 1).abs().max() > 0.01)


def _class_axis(prediction: torch.Tensor) -> int:
    return 1 if prediction.dim() > 1 else 0


def swapped(call: LossCall, raws: Raw, kind: str) -> str:
    """Another loss in the place of this one.

    Raises:
        WellfitError: it is not defined for this prediction and target.
    """
    new = _REGRESSION.get(kind) or {"bce": "binary_cross_entropy_with_logits", "cross-entropy": "cross_entropy"}[kind]
    if call.function == new or (kind == "bce" and call.function == "binary_cross_entropy"):
        return ""
    known = (*_CLASSES, *_REGRESSION.values(), "binary_cross_entropy", "binary_cross_entropy_with_logits")
    if call.function not in known:
        raise WellfitError("its targets mean something else")
    reduction = call.options.get("reduction", "mean")
    old = call.function
    if new == "cross_entropy":
        _to_classes(call, raws)
    elif old in _CLASSES:
        _from_classes(call, kind, reduction)
    elif kind == "bce":
        _to_bce(call, raws)
    elif old == "binary_cross_entropy_with_logits":
        call.prediction = call.prediction.sigmoid()
    if call.function == old:
        call.function = new
    call.options = {"reduction": reduction} if reduction != "mean" else {}
    return call.function


def _from_classes(call: LossCall, kind: str, reduction: str) -> None:
    """Scores or log-probabilities of classes (on axis 1) and class numbers: as rows, with one-hot targets."""
    import torch.nn.functional as F

    if call.target.is_floating_point():
        rows, target = call.prediction, call.target
    else:
        if reduction == "none":
            raise WellfitError("it gives one number for each sample, where the other gives one for each class")
        count = call.prediction.shape[_class_axis(call.prediction)]
        rows = call.prediction.movedim(_class_axis(call.prediction), -1).reshape(-1, count)
        classes = call.target.reshape(-1)
        used = classes != call.options.get("ignore_index", -100)
        rows, classes = rows[used], classes[used]
        target = F.one_hot(classes, count).to(rows.dtype)
    axis = -1 if not call.target.is_floating_point() else _class_axis(call.prediction)
    if kind == "bce":
        if call.function == "nll_loss":
            call.function, rows = "binary_cross_entropy", rows.exp().clamp(0, 1)
    else:
        rows = rows.exp() if call.function == "nll_loss" else rows.softmax(axis)
    call.prediction, call.target = rows, target


def _to_bce(call: LossCall, raws: Raw) -> None:
    """A regression on targets between 0 and 1."""
    if bool((call.target < 0).any() or (call.target > 1).any()):
        raise WellfitError("its targets are not between 0 and 1")
    name, raw = raws.of(call.prediction)
    if name == "sigmoid" and raw is not None:
        call.prediction = raw
    elif name:
        call.function = "binary_cross_entropy"
    call.target = call.target.to(call.prediction.dtype)


def _to_classes(call: LossCall, raws: Raw) -> None:
    """Scores and one-hot vectors: as scores and class numbers."""
    if call.function == "nll_loss":
        return  # cross_entropy of log-probabilities is nll_loss
    target, axis = call.target, _class_axis(call.prediction)
    if call.prediction.dim() < 2 or call.prediction.shape[1] < 2:
        raise WellfitError("the model has one output, and cross-entropy needs one for each class")
    one_hot = target.shape == call.prediction.shape and bool(
        ((target == 0) | (target == 1)).all() and (target.sum(axis) == 1).all()
    )
    if not one_hot:
        raise WellfitError("its targets are no classes")
    name, raw = raws.of(call.prediction)
    if name in ("softmax", "sigmoid"):
        call.prediction = _needed(raw, name)
    call.target = target.argmax(axis)
