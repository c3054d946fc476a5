"""
Every public function of NumPy and every method of `ndarray`, found by introspection.

Each is called in the same few ways with each of a few arrays, and again with references to them:
value, dtype and exception class are those of the array, or it is listed below with the reason. So
a function of a newer NumPy is tried without being named here; if none of the ways suits it, or if
it differs, the test fails until it is listed. What is listed must differ still.
"""

import contextlib
import functools
import importlib
import inspect
import io
import itertools
import pickle
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dj_npy
from dj_npy._array.arraylike import ArrayLike
from tests.support.arrays import same_data
from tests.support.references import reference

Function = Callable[..., Any]
Way = Callable[[Function, Any], Any]

# Small, and of small numbers, as some are taken for shapes; what one function or another wants:
# square, positive definite, sorted, with not-a-numbers.
MATRIX = np.array([[4, 1, 0], [1, 5, 1], [0, 1, 6]])
ARRAYS: dict[str, Any] = {
    "float, 2-d": MATRIX / 7,
    "float, 1-d": np.array([0.0, 0.25, 0.5, np.nan]),
    "float, 3-d": np.stack([MATRIX, MATRIX + 1]) / 9,
    "float, 0-d": np.array(0.5),
    "float, Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.array([1.5, 2.5], ">f8"),
    "int, 2-d": MATRIX,
    "int, 1-d": np.array([0, 1, 2, 3]),
    "int, 0-d": np.array(2),
    "uint8": np.array([1, 2, 3], np.uint8),
    "bool": np.array([True, False, True]),
    "complex": MATRIX[:2] + 1j,
    "empty": np.empty((0, 3)),
    "structured": np.array([(1, 2.5), (3, 4.5)], [("a", "i4"), ("b", "f8")]),
    "datetime": np.array(["2026-11-27", "2026-11-30"], "M8[D]"),
    "timedelta": np.array([1, 2], "m8[D]"),
    "string": np.array(["1", "b "]),
    "bytes": np.array([b"1", b"b "]),
}
NOT_LOADED = "float, 2-d"
"""The reference to it is not loaded before a call; the others are, for the sake of time."""


def with_array(function: Function, x: Any, *args: Any) -> Any:
    """Call with an array first, which may be changed."""
    array = np.array(x)
    return function(array, *args), array


def with_keyword(keyword: str, function: Function, x: Any) -> Any:
    return function(x, **{keyword: x})


WAYS: dict[str, Way] = {
    "f(x)": lambda f, x: f(x),
    "f(x, x)": lambda f, x: f(x, x),
    "f(x, x, x)": lambda f, x: f(x, x, x),
    "f(x, 1)": lambda f, x: f(x, 1),
    "f(1, x)": lambda f, x: f(1, x),
    "f(x, 0, 1)": lambda f, x: f(x, 0, 1),
    "f([x, x])": lambda f, x: f([x, x]),
    "f(x, 'f4')": lambda f, x: f(x, "f4"),
    "f(a, x)": lambda f, x: with_array(f, x, x),
    "f(a, x, x)": lambda f, x: with_array(f, x, x, x),
}
KEYWORDS = {
    "append",
    "bins",
    "fweights",
    "left",
    "prepend",
    "q",
    "right",
    "to_begin",
    "to_end",
    "weights",
    "where",
}
"""Each of these that a function has gets the array, too."""


def file(x: Any) -> io.BytesIO:
    """What `numpy.save` makes of an array."""
    result = io.BytesIO()
    np.save(result, x)
    result.seek(0)
    return result


def written(function: Function, *args: Any) -> bytes:
    result = io.BytesIO()
    function(result, *args)
    return result.getvalue()


def grid(f: Function, x: Any) -> Any:
    return f(x, x, x, np.ones((2, 2, 2)))


OWN_WAYS: dict[str, Way] = {
    "np.apply_along_axis": lambda f, x: f(np.sum, 0, x),
    "np.char.compare_chararrays": lambda f, x: f(x, x, "==", True),
    "np.datetime64": lambda f, x: f(x[0]),
    "np.fromfunction": lambda f, x: f(lambda i, j: i + x[0, 0], (2, 2)),
    "np.frompyfunc": lambda f, x: f(lambda a, b: a + b, 2, 1)(x, x),
    "np.fromstring": lambda f, x: f(str(x[0]), sep=" "),
    "np.lib.format.open_memmap": lambda f, x: f("m.npy", "w+", x.dtype, shape=x.shape).shape,
    "np.lib.format.read_array": lambda f, x: f(file(x)),
    "np.lib.format.write_array": lambda f, x: written(f, x),
    "np.ma.apply_along_axis": lambda f, x: f(np.sum, 0, x),
    "np.ma.fromfunction": lambda f, x: f(lambda i, j: i + x[0, 0], (2, 2)),
    "np.ma.polyfit": lambda f, x: f(x, x, 1),
    "np.mask_indices": lambda f, x: f(2, lambda a, k: a * x[:2, :2]),
    "np.nested_iters": lambda f, x: [np.array(i) for i in f(x, [[0], [1]])[0]],
    "np.polyfit": lambda f, x: f(np.ravel(x), x.ravel(), 1),
    "np.polynomial.chebyshev.chebinterpolate": lambda f, x: f(lambda y: y * x[0, 0], 2),
    "np.put_along_axis": lambda f, x: with_array(functools.partial(f, axis=0), x, x * 0, 7),
    "np.save": lambda f, x: written(f, x),
    "np.savetxt": lambda f, x: written(f, x),
    "np.savez": lambda f, x: sorted(np.load(io.BytesIO(written(f, x))).items()),
    "np.savez_compressed": lambda f, x: sorted(np.load(io.BytesIO(written(f, x))).items()),
    "np.testing.assert_no_warnings": lambda f, x: f(np.sum, x),
    "np.testing.assert_raises": lambda f, x: f(ValueError, np.reshape, x, (7, 7)),
    "np.testing.assert_raises_regex": lambda f, x: f(ValueError, "7", np.reshape, x, (7, 7)),
    "ndarray.__format__": lambda f, x: f(x, ""),
    "ndarray.dumps": lambda f, x: pickle.loads(f(x)),
    "ndarray.setfield": lambda f, x: f(x, 1, "i1"),
    "ndarray.to_device": lambda f, x: f(x, "cpu"),
    "np.take_along_axis": lambda f, x: f(x, x * 0, 0),
    "np.compare_chararrays": lambda f, x: f(x, x, "==", True),
    "np.timedelta64": lambda f, x: f(x[0]),
    "np.vectorize": lambda f, x: f(lambda a, b: a)(x, x),
    **{
        f"{kind}.multivariate_normal": lambda f, x: f(x[0], x @ x.T)
        for kind in ("Generator", "RandomState")
    },
    **{
        f"np.polynomial.{module}.{name}{kind}": way
        for module, name in {
            "chebyshev": "cheb",
            "hermite": "herm",
            "hermite_e": "herme",
            "laguerre": "lag",
            "legendre": "leg",
            "polynomial": "poly",
        }.items()
        for kind, way in {
            "grid3d": grid,
            "val3d": grid,
            "vander2d": lambda f, x: f(x, x, [1, 2]),
            "vander3d": lambda f, x: f(x, x, x, [1, 0, 2]),
        }.items()
    },
}
"""Instead of these, for functions with which none succeeds."""


def listed(reasons: dict[str, str]) -> dict[str, str]:
    """The reason by the name."""
    return {name: reason for reason, names in reasons.items() for name in names.split()}


NOT_CALLED = listed(
    {
        "changes the process for everybody": """
            np.errstate np.polynomial.set_default_printstyle np.printoptions np.set_numeric_ops
            np.set_printoptions np.set_string_function np.setbufsize np.seterr np.seterrcall
            np.testing.clear_and_catch_warnings np.testing.suppress_warnings""",
        "takes no array, but functions, programs or nothing": """
            np.add_docstring np.add_newdoc np.add_newdoc_ufunc np.format_parser np.geterrobj
            np.safe_eval np.seterrobj np.who np.lookfor np.info np.source np.compat np.deprecate
            np.deprecate_with_doc np.disp np.fft.test np.get_include np.get_printoptions
            np.getbufsize np.geterr np.geterrcall np.lib.introspect.opt_func_info np.linalg.test
            np.ma.test np.polynomial.test np.show_config np.show_runtime np.test
            np.testing.assert_no_gc_cycles np.testing.assert_string_equal np.testing.assert_warns
            np.testing.break_cycles np.testing.check_support_sve np.testing.decorate_methods
            np.testing.jiffies np.testing.measure np.testing.memusage np.testing.run_module_suite
            np.testing.run_threaded np.testing.rundocs np.testing.runstring np.testing.test
            np.ufunc""",
        "takes a file or its bytes": """
            np.DataSource np.ctypeslib.load_library np.fromfile np.fromregex
            np.lib.format.read_array_header_1_0 np.lib.format.read_array_header_2_0
            np.lib.format.os_fspath np.lib.format.read_magic np.lib.format.write_array_header_1_0
            np.lib.format.write_array_header_2_0 np.lib.npyio.DataSource np.lib.npyio.NpzFile
            np.load np.memmap np.rec.fromfile""",
        "takes a dtype": """
            np.busdaycalendar np.ctypeslib.as_ctypes_type np.ctypeslib.ndpointer np.datetime_data
            np.dtype np.find_common_type np.finfo np.iinfo np.isdtype np.issctype np.issubclass_
            np.issubdtype np.issubsctype np.lib.format.drop_metadata np.lib.format.dtype_to_descr
            np.ma.fromflex np.ma.make_mask_descr np.maximum_sctype np.obj2sctype np.promote_types
            np.rec.format_parser np.sctype2char np.typename""",
        "is abstract": """
            np.character np.complexfloating np.flatiter np.flexible np.floating np.generic
            np.inexact np.integer np.number np.polynomial.chebyshev.ABCPolyBase
            np.polynomial.hermite.ABCPolyBase np.polynomial.hermite_e.ABCPolyBase
            np.polynomial.laguerre.ABCPolyBase np.polynomial.legendre.ABCPolyBase
            np.polynomial.polynomial.ABCPolyBase np.signedinteger np.unsignedinteger""",
        "takes a whole number": """
            np.polynomial.hermite.hermgauss np.polynomial.hermite_e.hermegauss
            np.polynomial.laguerre.laggauss np.polynomial.legendre.leggauss""",
        "belongs to every object, or to a protocol: see test_ref.py": """
            ndarray.__array__ ndarray.__array_finalize__ ndarray.__array_function__
            ndarray.__array_interface__ ndarray.__array_namespace__ ndarray.__array_prepare__
            ndarray.__array_priority__ ndarray.__array_struct__ ndarray.__array_ufunc__
            ndarray.__array_wrap__ ndarray.__buffer__ ndarray.__class__ ndarray.__class_getitem__
            ndarray.__copy__ ndarray.__deepcopy__ ndarray.__delattr__ ndarray.__delitem__
            ndarray.__dir__ ndarray.__dlpack__ ndarray.__doc__ ndarray.__getattribute__
            ndarray.__getstate__ ndarray.__init__ ndarray.__init_subclass__ ndarray.__new__
            ndarray.__reduce__ ndarray.__reduce_ex__ ndarray.__setattr__ ndarray.__setstate__
            ndarray.__sizeof__ ndarray.__subclasshook__""",
        "does not end for the numbers of a date": "Generator.zipf RandomState.zipf",
        "would read beyond the array": "np.lib.stride_tricks.as_strided",
        "sets a generator from its state or seed": "RandomState.seed RandomState.set_state",
    }
)
UNINITIALIZED = {
    name
    for names in (
        "np.empty np.empty_like np.ndarray np.recarray np.ma.empty np.ma.empty_like",
        "np.ma.masked_all np.ma.masked_all_like np.rec.recarray np.char.chararray np.chararray",
        "Generator.integers RandomState.randint",
    )
    for name in names.split()
}
"""Their values are what was in memory: only dtype and shape are compared."""

DIFFERS = listed(
    {
        "is refused, as it changes the array, here by nothing or in vain": """
            Generator.shuffle RandomState.shuffle ndarray.__setitem__ ndarray.fill ndarray.itemset
            ndarray.partition ndarray.put ndarray.resize ndarray.setfield ndarray.setflags
            ndarray.sort np.copyto np.fill_diagonal np.place np.put np.putmask""",
        "tells where the array is in memory: ref.load()": """
            ndarray.base ndarray.ctypes ndarray.data ndarray.device ndarray.flags ndarray.strides
            ndarray.to_device""",
        "has a hash, and so can be a key": """
            ndarray.__hash__""",
        "is itself an array, of all elements": "ndarray.flat",
        "compares memory, of which an array that is not loaded has none": """
            np.may_share_memory np.shares_memory""",
        "returns NotImplemented, which for a reference is an error": """
            np.char.equal np.char.greater np.char.greater_equal np.char.less np.char.less_equal
            np.char.not_equal""",
        "is Python's `%`, which with a str is the str's": "ndarray.__rmod__",
        "wants the memory of an array: ref.load()": """
            np.byte_bounds np.ctypeslib.as_ctypes np.frombuffer np.isfortran
            np.lib.array_utils.byte_bounds np.lib.format.header_data_from_array_1_0
            np.lib.format.write_array np.ma.frombuffer np.ma.ids np.rec.fromstring""",
        "looks for a numpy.ndarray, and takes others for something else: ref.load()": """
            ndarray.__getitem__ ndarray.compress np.array_str np.astype np.bmat np.char.array
            np.char.asarray np.compress np.delete np.genfromtxt np.ma.make_mask np.ma.masked_where
            np.rec.array np.rec.fromrecords np.testing.assert_almost_equal
            np.testing.assert_equal""",
        "takes points that are no numpy.ndarray for one number": """
            np.polynomial.chebyshev.chebgrid2d np.polynomial.chebyshev.chebgrid3d
            np.polynomial.chebyshev.chebval np.polynomial.hermite.hermgrid2d
            np.polynomial.hermite.hermgrid3d np.polynomial.hermite.hermval
            np.polynomial.hermite_e.hermegrid2d np.polynomial.hermite_e.hermegrid3d
            np.polynomial.hermite_e.hermeval np.polynomial.laguerre.laggrid2d
            np.polynomial.laguerre.laggrid3d np.polynomial.laguerre.lagval
            np.polynomial.legendre.leggrid2d np.polynomial.legendre.leggrid3d
            np.polynomial.legendre.legval np.polynomial.polynomial.polygrid2d
            np.polynomial.polynomial.polygrid3d np.polynomial.polynomial.polyval
            np.polynomial.polynomial.polyvalfromroots""",
        "shows a reference as one": """
            ndarray.__format__ ndarray.__repr__ ndarray.__str__ np.array_repr
            np.polynomial.polyutils.format_float np.str_ np.testing.build_err_msg""",
        "makes something else of one number, or of several in a list": """
            np.bytes_ np.is_busday np.ma.mvoid np.rec.record np.record np.void""",
        "refuses by another check": """
            ndarray.__complex__ ndarray.__ipow__ ndarray.__pow__ ndarray.__rpow__ ndarray.byteswap
            np.arange np.busday_count np.busday_offset np.ma.arange np.ma.argmax np.ma.argmin""",
    }
)
if np.__version__.startswith("1."):
    NOT_CALLED |= listed(
        {"frees memory twice, whatever it is given": "np.char.array np.char.asarray"},
    )
    del DIFFERS["np.testing.build_err_msg"]
    DIFFERS |= listed(
        {
            "takes an array of no axes by its value, not its dtype": "np.can_cast np.result_type",
            "shows a reference as one": "np.unicode_",
            "makes something else of one number": "np.string_",
            "refuses by another check": "np.diag_indices",
            "is gone in NumPy 2": """
                ndarray.newbyteorder ndarray.ptp ndarray.tostring np.get_array_wrap""",
            "is asked by name; `==` itself is the array's": "ndarray.__eq__ ndarray.__ne__",
        }
    )
"""What a reference does not do as an array does."""

# For all functions: a reason, and the exceptions of the array and of the reference.
EVERYWHERE: dict[str, Callable[[Any, str], Any]] = {
    "what changes a reference is refused, whatever else is wrong": lambda _, text: re.search(
        "in place: |('out'|output) must be an array|is read-only", text
    ),
    "several integers are no index, with an error that bytearray() does not ignore": (
        lambda _, text: "for bytes, there is ref.tobytes()" in text
    ),
    "an array is not taken for its dtype": (
        lambda array, _: "Cannot construct a dtype from an array" in array
    ),
    "an array has no hash": lambda array, _: "unhashable" in array,
    "a reference to one number in a list with strings is none": (
        lambda _, text: "setting an array element with a sequence" in text
    ),
}


def public(module: ModuleType, prefix: str) -> dict[str, Function]:
    """The functions and classes of a module that a user may call; ufuncs with their methods."""
    found: dict[str, Function] = {}
    for name in dir(module) if module is np else getattr(module, "__all__", dir(module)):
        member = getattr(module, name)
        elsewhere = module is not np and vars(np).get(name) is member
        if name.startswith("_") or not callable(member) or elsewhere:
            continue
        if isinstance(member, type) and (
            issubclass(member, BaseException) or not member.__module__.startswith("numpy")
        ):
            continue
        found[prefix + name] = member
    return found


def of_ufuncs() -> dict[str, Function]:
    """The methods of some ufuncs, which are those of the others, too."""
    methods = ("accumulate", "at", "outer", "reduce", "reduceat")
    ufuncs = (np.add, np.divide, np.equal, np.logical_and, np.maximum)
    found = {
        f"{ufunc.__name__}.{name}": getattr(ufunc, name) for name in methods for ufunc in ufuncs
    }
    return {**found, "negative.at": np.negative.at}


def random() -> dict[str, Function]:
    """The methods of generators, each time of a new one, as they change its state."""

    def of_a_new(kind: Any, name: str) -> Function:
        return lambda *args, **kwargs: getattr(kind(np.random.PCG64(1)), name)(*args, **kwargs)

    return {
        f"{kind.__name__}.{name}": of_a_new(kind, name)
        for kind in (np.random.Generator, np.random.RandomState)
        for name in dir(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    }


def of_arrays() -> dict[str, Function]:
    """The methods and attributes of an array, as functions of it."""

    def of(name: str) -> Function:
        def function(array: Any, *args: Any) -> Any:
            member = getattr(array, name)
            return member(*args) if callable(member) else member

        return function

    return {f"ndarray.{name}": of(name) for name in dir(np.ndarray) if not re.match("_[^_]", name)}


def namespaces() -> dict[str, dict[str, Function]]:
    names = """
        char ctypeslib emath fft lib.array_utils lib.format lib.introspect lib.npyio
        lib.scimath lib.stride_tricks linalg ma polynomial polynomial.chebyshev polynomial.hermite
        polynomial.hermite_e polynomial.laguerre polynomial.legendre polynomial.polynomial
        polynomial.polyutils rec strings testing"""
    modules = {"np": np}
    for name in names.split():
        with contextlib.suppress(ImportError, AttributeError):  # some are of NumPy 2
            module = importlib.import_module(f"numpy.{name}")
            modules[f"np.{name}"] = module
    return {
        **{name: public(module, f"{name}.") for name, module in modules.items()},
        "ndarray": of_arrays(),
        "np.random": random(),
        "np.ufunc": of_ufuncs(),
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of names that NumPy deprecates
    NAMESPACES = namespaces()


class Raised:
    """The exception of a call."""

    def __init__(self, error: Exception) -> None:
        self.kind, self.text = type(error), str(error)

    def __repr__(self) -> str:
        return f"{self.kind.__name__}({self.text})"


def outcome(function: Function, *args: Any) -> Any:
    try:
        value = function(*args)
        if hasattr(value, "__next__"):
            value = [np.array(x) for x in itertools.islice(value, 50)]
    except Exception as error:
        return Raised(error)
    return value


def equal(one: Any, other: Any, by_value: bool = True) -> bool:
    """Whether the outcome for an array and the one for a reference are the same."""
    if isinstance(other, ArrayLike):
        other = np.asarray(other)  # a view that is not loaded, for one that is
    if type(one) is not type(other):
        return False
    if isinstance(one, Raised):
        return one.kind is other.kind
    if isinstance(one, np.ma.MaskedArray):
        return equal(one.mask, other.mask, by_value) and equal(one.data, other.data, by_value)
    if isinstance(one, np.ndarray | np.generic):
        if one.dtype != other.dtype or one.shape != other.shape or not by_value:
            return bool(one.dtype == other.dtype and one.shape == other.shape)
        if one.dtype == object:
            return all(map(equal, one.ravel().tolist(), other.ravel().tolist()))
        return same_data(np.asarray(one), np.asarray(other))
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(equal(*pair, by_value) for pair in pairs)
    if isinstance(one, dict):
        return list(one) == list(other) and all(map(equal, one.values(), other.values()))
    return re.sub(r"0x\w+", "", repr(one)) == re.sub(r"0x\w+", "", repr(other))


def shown(value: Any) -> str:
    try:
        return f"{value!r:.150}"
    except Exception:  # NumPy 1.26 cannot show every masked array
        return type(value).__name__


def ways_of(name: str, function: Function) -> tuple[dict[str, Way], bool]:
    """How to call a function, and whether it has an `out`."""
    if name in OWN_WAYS:
        return {"its own way": OWN_WAYS[name]}, False
    ways = dict(WAYS)
    if isinstance(function, np.ufunc):
        return ways, True
    try:
        parameters = set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of C
        return ways, True
    for keyword in parameters & KEYWORDS:
        ways[f"f(x, {keyword}=x)"] = functools.partial(with_keyword, keyword)
    return ways, "out" in parameters


def wrong_call(value: Any) -> bool:
    """Whether there were too many arguments, or too few, as there will be with another array."""
    return (
        isinstance(value, Raised)
        and value.kind is TypeError
        and re.search(r"takes .*argument|missing .*argument|multiple values", value.text)
        is not None
    )


def differences(
    functions: dict[str, Function], refs: dict[str, dj_npy.NpyRef]
) -> tuple[dict[str, list[str]], set[str], set[str]]:
    """Up to three differences a function; what no way of calling suits; reasons met everywhere."""
    found: dict[str, list[str]] = defaultdict(list)
    untried, met = set(), set()
    for name, function in functions.items():
        ways, has_out = ways_of(name, function)
        if name in NOT_CALLED:
            continue
        untried.add(name)
        unsuitable = set()
        for (way, call), (kind, array) in itertools.product(ways.items(), ARRAYS.items()):
            if way in unsuitable:
                continue
            own, ref, said = array.copy(order="K"), refs[kind], f"{way} of {kind}"
            if kind == NOT_LOADED:
                ref.unload()
            one, other = outcome(call, function, own), outcome(call, function, ref)
            if not isinstance(one, Raised):
                untried.discard(name)
            if not same_data(own, array):
                assert isinstance(other, Raised), f"{name} changes an array: {said}"
            elif wrong_call(one) and wrong_call(other):
                unsuitable.add(way)
            elif not equal(one, other, name not in UNINITIALIZED):
                texts = [repr(x) if isinstance(x, Raised) else "" for x in (one, other)]
                reasons = [reason for reason, suits in EVERYWHERE.items() if suits(*texts)]
                met.update(reasons)
                if not reasons and len(found[name]) < 3:
                    found[name].append(f"{said}: {shown(one)} and {shown(other)}")
            if has_out and isinstance(one, np.ndarray):
                out = np.empty_like(one)
                if outcome(call, functools.partial(function, out=out), own) is out:
                    refused = outcome(call, functools.partial(function, out=ref), own)
                    assert isinstance(refused, Raised), f"{name} takes a reference for out: {said}"
    return found, untried, met


@pytest.fixture(scope="module")
def refs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dj_npy.NpyRef]]:
    location = str(tmp_path_factory.mktemp("conformance"))
    stores = {"default": "main", "main": {"protocol": "file", "location": location}}
    arrays = enumerate(ARRAYS.items())
    refs = {name: reference(array, stores, number) for number, (name, array) in arrays}
    loaded = [ref.load() for ref in refs.values()]
    yield refs
    for array, kept, ref in zip(ARRAYS.values(), loaded, refs.values(), strict=True):
        assert same_data(array, kept)
        assert same_data(array, ref.load())
        assert same_data(array, ref.read())


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files go into an empty folder; what NumPy deprecates is tried all the same."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_a_function_does_to_a_reference_what_it_does_to_the_array(
    refs: dict[str, dj_npy.NpyRef], namespace: str
) -> None:
    functions = NAMESPACES[namespace]
    found, untried, met = differences(functions, refs)
    assert untried == set(), "nothing calls these: see OWN_WAYS and NOT_CALLED"
    told = DIFFERS.keys() & functions.keys() - NOT_CALLED.keys()
    assert {name: found[name] for name in found.keys() - told} == {}
    assert told - found.keys() == set(), "they differ no longer"
    if namespace == "np":
        assert met == set(EVERYWHERE)
