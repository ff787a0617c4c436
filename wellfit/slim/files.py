"""Saving a model as a `.wfz` file, and loading it again, into the user's own class or as a plain state_dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wellfit.errors import WellfitError
from wellfit.slim.wfz import BFloat16, Contents, Float8, Same, Written, read, write

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wellfit.slim.changes import Change

_SHOWN = 5  # names in an error


def save(model: nn.Module | Mapping[str, Tensor], path: str | Path, changes: Sequence[Change] = ()) -> Written:
    """Write the weights of a model as they are, bit for bit, as small as they allow.

    Whatever was pruned or shared costs few bytes; nothing is rounded. Tied tensors are stored once.

    Args:
        model: a module, or its state_dict.
        path: of the file; one that is there is replaced.
        changes: that were made of the module's structure, in their order, so that `load` makes them again.

    Returns:
        what was written: bytes of the file and of each tensor.

    Raises:
        WellfitError: a value is no tensor that a file can hold (quantised, or in a sparse layout), or the file cannot
            be written.

    Example:
        >>> import torch, tempfile, wellfit.slim
        >>> model = torch.nn.Linear(100, 10)
        >>> path = tempfile.mkdtemp() + "/model.wfz"
        >>> wellfit.slim.save(model, path).bytes < 4 * 1010
        True
    """
    from wellfit.slim.changes import as_json

    state = model if isinstance(model, Mapping) else model.state_dict(keep_vars=True)
    return write(path, _given(state), changes=as_json(one.stored() for one in changes))


def load(path: str | Path, model: nn.Module | None = None, *, max_bytes: int | None = None) -> Any:
    """Read a file.

    Args:
        path: of the file.
        model: a fresh instance of the class that was made small: the changes of its structure are made again and the
            weights loaded, each as the type and on the device that the model has. None: only the tensors are wanted.
        max_bytes: what all tensors together may take in memory, see `wfz.read`.

    Returns:
        the model; without one its state_dict, tensors by name with the types of the file, on the CPU; tied tensors
        are one tensor.

    Raises:
        WellfitError: the file cannot be opened, or the model is of another class than the one that was saved; the
            model may have been changed in part.
        Damaged: the file is damaged.
    """
    contents = read(path, max_bytes=max_bytes)
    state = _state_dict(contents)
    if model is None:
        return state
    from wellfit.slim.changes import from_json, redo_all

    redo_all(model, from_json(contents.changes))
    _check_fit(state, model, path)
    model.load_state_dict(state, strict=True)
    return model


def _given(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the writer takes."""
    import torch

    found: dict[str, Any] = {}
    owners: dict[Any, str] = {}
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise WellfitError(f"{name} is no tensor ({type(value).__name__}): a .wfz file holds tensors only")
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            how = "has no numbers (meta)" if value.is_meta else f"is {'quantized' if value.is_quantized else 'sparse'}"
            raise WellfitError(
                f"{name} {how}: a .wfz file holds plain tensors; make it one first (to_dense, dequantize)"
            )
        key = _place(value)
        if key is not None and key in owners:
            found[name] = Same(owners[key])
            continue
        owners[key] = name
        found[name] = as_given(value)
    return found


def _place(tensor: Tensor) -> Any:
    """What two tensors have in common that are one; None for one without numbers."""
    if not tensor.numel():
        return None
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def as_given(tensor: Tensor) -> Any:
    """A dense tensor as `wfz.write` takes it.

    Raises:
        WellfitError: a file holds no tensors of its type.
    """
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        return BFloat16(plain.view(torch.uint16).numpy())
    if plain.dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        return Float8(plain.view(torch.uint8).numpy(), str(plain.dtype).removeprefix("torch.float8_"))
    try:
        return plain.numpy()
    except TypeError:
        raise WellfitError(f"a .wfz file holds no tensors of {plain.dtype}") from None


def _state_dict(contents: Contents) -> dict[str, Tensor]:
    import torch

    found: dict[str, Tensor] = {}
    for name, stored in contents.stored.items():
        if stored.tied_to is not None:
            continue
        array = contents.tensor(name)
        tensor = torch.from_numpy(array.copy() if not array.flags.writeable else array)
        wanted = getattr(torch, stored.dtype)
        found[name] = tensor if tensor.dtype == wanted else tensor.view(wanted)
    return {name: found[one.tied_to or name] for name, one in contents.stored.items()}


def _check_fit(state: Mapping[str, Tensor], model: nn.Module, path: str | Path) -> None:
    """Say in one sentence what torch would say in many lines."""
    own = {name: value for name, value in model.state_dict().items() if hasattr(value, "shape")}
    kind = type(model).__name__
    for names, what in (
        ([name for name in own if name not in state], f"{path} does not have"),
        ([name for name in state if name not in own], f"{kind} does not have"),
    ):
        if names:
            raise WellfitError(f"{path} does not fit {kind}, which is another class than when it was saved: "
                               f"{what} {_listed(names)}")  # fmt: skip
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise WellfitError(
                f"{path} does not fit {kind}, which is another class than when it was saved: {name} has the shape "
                f"{list(value.shape)} in the file, and {list(own[name].shape)} in the model"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
