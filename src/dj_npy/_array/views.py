"""Arrays whose parts and views are read without the rest, and NumPy's functions of them."""

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from dj_npy._array import reductions
from dj_npy._array.arraylike import ArrayLike, materialized, owned
from dj_npy._format.npyfile import AnyArray, Header, stand_in
from dj_npy._selection.index import Selection, select
from dj_npy._selection.parts import boxes
from dj_npy._selection.plan import MakeView
from dj_npy._settings import settings

_MAX_POINTS = 2 << 20
"""Most elements of `ref.flat` that are looked up one by one; more only if consecutive."""


class PartialArray(ArrayLike):
    """An array-like that reads what an index selects, of itself and of its views."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_loaded(self) -> bool:
        """Whether the data are in memory."""

    @abstractmethod
    def _read_selected(self, selected: Selection, view: MakeView | None = None) -> Any:
        """Read a selection, of a view if one is given; None if the whole is to be loaded."""

    def __getitem__(self, index: Any) -> Any:
        index = materialized(index)
        part = self._read_selected(select(index, self.shape, self.dtype))
        return owned(self._array()[index]) if part is None else part

    # Lazy, as `hasattr` evaluates a property and must not load the data.
    @property
    def T(self) -> "View":  # noqa: N802
        """The array with its axes reversed, still unloaded."""
        return View(self, np.transpose)

    @property
    def mT(self) -> "View":  # noqa: N802
        """The array with its last two axes swapped, still unloaded."""
        if self.ndim < 2:
            raise ValueError("matrix transpose with ndim < 2 is undefined")  # NumPy's message
        return View(self, np.swapaxes, (-1, -2))

    @property
    def real(self) -> "View":
        """The real part, still unloaded."""
        return View(self, np.real)

    @property
    def imag(self) -> "View":
        """The imaginary part, still unloaded."""
        return View(self, np.imag) if self.dtype.kind == "c" else Zeros(self, np.imag)

    @property
    def flat(self) -> "View":
        """All elements along one axis in C order, still unloaded."""
        return Flat(self, np.ravel)

    def item(self, *args: Any) -> Any:
        """Return one element as a Python object, as `numpy.ndarray.item` does; read no other."""
        one_byte: AnyArray = np.ndarray(self.shape, np.uint8, b"\0", strides=(0,) * self.ndim)
        one_byte.item(*args)  # raises what NumPy raises
        index = args[0] if len(args) == 1 else args or (0,) * self.ndim
        found = self[tuple(map(int, index))] if isinstance(index, tuple) else self.flat[int(index)]
        return found.item()

    def take(self, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise") -> Any:
        """Return elements along an axis, as `numpy.ndarray.take` does; read no others."""
        indices = materialized(indices)
        if (
            out is not None
            or not (self.ndim and self.size)
            or mode not in ("raise", "wrap", "clip")
        ):
            return self._array().take(indices, axis, out, mode)
        # Raises what NumPy raises, except for an index that is out of bounds.
        np.zeros((1,) * self.ndim, np.uint8).take(indices, axis, mode="clip")
        source, before = (
            (self.flat, ()) if axis is None else (self, (slice(None),) * (axis % self.ndim))
        )
        length = source.shape[len(before)]
        indices = np.asarray(indices).astype(np.intp)
        if mode != "raise":
            indices = indices % length if mode == "wrap" else indices.clip(0, length - 1)
        return source[(*before, indices)]

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> AnyArray:
        """Return the diagonal, as `numpy.ndarray.diagonal` does; read nothing else."""
        diagonal: AnyArray = View(self, np.diagonal, (offset, axis1, axis2))[...]
        return diagonal

    def __array_function__(
        self, function: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        numpys = np.ndarray.__array_function__
        if any(
            not issubclass(cls, ArrayLike) and cls.__array_function__ is not numpys for cls in types
        ):
            # Another library's array decides, as it does for an ndarray.
            return function(*_converted(args, np.asarray), **_converted(kwargs, np.asarray))
        if function in _LAZY:
            return _LAZY[function](*args, **kwargs)
        # Functions with `like=` have no implementation apart, and come without that argument.
        return getattr(function, "_implementation", function)(*args, **kwargs)


class View(PartialArray):
    """
    A lazy view of an array, returned by attributes such as ``ref.T`` and by `numpy.moveaxis`.

    An index of it reads what the same index of the loaded view would show, and no more.

    Parameters
    ----------
    source : PartialArray
        The array with the data.
    function : callable
        Function of NumPy, or of the same arguments, that returns a view of an array.
    args, kwargs
        Its arguments after the array.
    item : int, optional
        Which of its results, if it returns a list.
    like : ndarray, optional
        What it returns for the source's stand-in, if that is known.
    """

    __slots__ = ("_args", "_function", "_item", "_kwargs", "_like", "_source")

    def __init__(
        self,
        source: PartialArray,
        function: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        item: int | None = None,
        like: AnyArray | None = None,
    ) -> None:
        self._source, self._function, self._args = source, function, args
        self._kwargs, self._item = kwargs or {}, item
        self._like = self._stand_in() if like is None else like

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return self._like.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of an element."""
        return self._like.dtype

    def _of(self, array: AnyArray) -> AnyArray:
        found: Any = self._function(array, *self._args, **self._kwargs)
        return np.asarray(found if self._item is None else found[self._item])

    @property
    def is_loaded(self) -> bool:
        """Whether the data are in memory."""
        return self._source.is_loaded

    def _stand_in(self) -> AnyArray:
        return self._of(self._source._stand_in())

    def _array(self) -> AnyArray:
        part = None
        if self.size < self._source.size:
            part = self._read_selected(select(..., self.shape, self.dtype))
        array = self._of(self._source._array()) if part is None else part
        array.flags.writeable = False  # a view or a copy, depending on the memory order
        return array

    def _read_selected(self, selected: Selection, view: MakeView | None = None) -> Any:
        return self._source._read_selected(
            selected, self._of if view is None else lambda array: view(self._of(array))
        )

    def _exceeds_memory(self) -> bool:
        has_axes = self.ndim > 0
        return has_axes and self.nbytes > settings.memory and self._source._exceeds_memory()

    def _blocks_ahead(self, nbytes: int) -> int:
        return self._source._blocks_ahead(nbytes)

    def __copy__(self) -> "View":
        return self  # it cannot be changed

    def __reduce__(self) -> tuple[Any, ...]:
        # Names only NumPy's functions: ours may change.
        call = partial(self._function, **self._kwargs) if self._kwargs else self._function
        reduced = call, (self._source, *self._args)
        if self._item is None:
            return reduced
        return operator.getitem, (_Reduced(reduced), self._item)

    def __repr__(self) -> str:
        item = "" if self._item is None else f"[{self._item}]"
        return f"{self._function.__name__}({self._source!r}){item}"


class Flat(View):
    """The elements of an array along one axis in C order."""

    __slots__ = ()

    def _stand_in(self) -> AnyArray:
        return stand_in(Header(self._source.dtype, (self._source.size,), False, 0))

    def _read_selected(self, selected: Selection, view: MakeView | None = None) -> Any:
        shape, ranges, points = self._source.shape, dict(selected.ranges), dict(selected.points)
        if len(shape) == 1:
            return self._source._read_selected(selected, view)
        if view is not None or not shape:
            return None
        result = selected.result
        if math.prod(selected.shape) > _MAX_POINTS:
            is_stretch = result == (("range", 0),) and ranges[0].step == 1
            return self._stretch(ranges[0]) if is_stretch and selected.dtype == self.dtype else None
        if not points and ("points", 0) in result:  # of a mask without axes
            return None
        if points:
            points = dict(enumerate(np.unravel_index(points[0], shape)))
        elif ("range", 0) in result:
            points = dict(enumerate(np.unravel_index(np.array(ranges[0], np.intp), shape)))
            result = tuple(("points", 0) if axis == ("range", 0) else axis for axis in result)
        else:
            found = np.unravel_index(ranges[0][0], shape)
            ranges = {axis: range(int(n), int(n) + 1) for axis, n in enumerate(found)}
        if points:
            ranges = {}
        return self._source._read_selected(
            selected._replace(ranges=ranges, points=points, result=result)
        )

    def _stretch(self, wanted: range) -> Any:
        """Read consecutive elements; None if the whole is to be loaded."""
        if self.is_loaded or len(wanted) == self.size:
            return None
        parts = [self._source[box].ravel() for box in boxes(wanted, self._source.shape)]
        return np.concatenate(parts, dtype=self.dtype)

    def _unflattened(self) -> ArrayLike:
        return self._source

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._source, "flat")


class Zeros(View):
    """The imaginary part of an array of real numbers, which needs no data."""

    __slots__ = ()

    def _stand_in(self) -> AnyArray:
        zero: AnyArray = np.zeros((), self._source.dtype)
        return np.broadcast_to(zero.imag, self._source.shape)

    def _array(self) -> AnyArray:
        return self._like

    def _read_selected(self, *_: Any) -> Any:
        return None

    def _exceeds_memory(self) -> bool:
        return False


class _Reduced:
    """Pickles as the result of a call."""

    def __init__(self, reduced: tuple[Any, ...]) -> None:
        self._reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reduced


def _converted(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Replace array-likes, also within lists, tuples and dictionaries."""
    if isinstance(value, ArrayLike):
        return convert(value)
    if type(value) in (list, tuple):
        return type(value)(_converted(each, convert) for each in value)
    if type(value) is dict:
        return {name: _converted(each, convert) for name, each in value.items()}
    return value


def _view(function: Any) -> Callable[..., Any]:
    def view(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], PartialArray):
            view = View(args[0], function, args[1:], kwargs)
            # NumPy flips an array of no axes into a scalar.
            return view if view.ndim or function is not np.flip else view._array()[()]
        return function._implementation(*args, **kwargs)

    return view


def _views(function: Any) -> Callable[..., Any]:
    def views(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], PartialArray):
            likes = enumerate(function(args[0]._stand_in(), *args[1:], **kwargs))
            return [View(args[0], function, args[1:], kwargs, *each) for each in likes]
        return function._implementation(*args, **kwargs)

    return views


def _with(convert: Callable[[Any], Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda function: (
        lambda *args, **kwargs: function(*_converted(args, convert), **_converted(kwargs, convert))
    )


def _like(function: Any) -> Callable[..., Any]:
    def given(name: Any, value: Any) -> Any:
        is_like = name in (0, "a", "prototype") and isinstance(value, ArrayLike)
        return value._stand_in() if is_like else _converted(value, np.asarray)

    def like(*args: Any, **kwargs: Any) -> Any:
        by_name = {name: given(name, value) for name, value in kwargs.items()}
        return function(*map(given, range(len(args)), args), **by_name)

    return like


def _in_blocks(function: Any) -> Callable[..., Any]:
    def reduced(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], ArrayLike) and args[0]._exceeds_memory():
            return reductions.reduce(args[0], function, args[1:], kwargs)
        # With its data, as some of these ask whether it is an ndarray.
        return _with(np.asarray)(function)(*args, **kwargs)

    return reduced


def _lazily(names: str, make: Callable[[Any], Any]) -> dict[Any, Callable[..., Any]]:
    functions = (getattr(np, name, None) for name in names.split())  # some are new in NumPy 2
    return {function: make(function) for function in functions if function is not None}


_AXES = (
    "transpose permute_dims matrix_transpose swapaxes moveaxis rollaxis squeeze expand_dims flip "
    "fliplr flipud rot90 diagonal"
)
_LAZY = {
    **_lazily(_AXES, _view),
    **_lazily("array_split split hsplit vsplit dsplit", _views),
    **_lazily("empty_like zeros_like ones_like full_like", _like),
    # Memory that is not there is shared with nobody.
    **_lazily(
        "may_share_memory shares_memory",
        _with(lambda array: np.asarray(array) if array.is_loaded else np.empty(0)),
    ),
    # Of an array without axes, NumPy 1 looks at the value.
    **_lazily(
        "result_type can_cast",
        _with(lambda array: array.dtype if array.ndim else np.asarray(array)),
    ),
    **_lazily("nansum nanprod nanmean nanvar nanstd nanmin nanmax ptp count_nonzero", _in_blocks),
}
"""What NumPy's functions do, by function, where they would load what they do not need."""
