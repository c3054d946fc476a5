"""
What libraries that labs use do with a reference: tried, and the table of docs/libraries.md.

``python -m tests.support.libraries`` tries those that are installed, or those that are named;
``--table`` prints the table.
"""

import importlib
import importlib.metadata
import os
import re
import sys
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import numpy as np

import dj_npy
from tests.support.references import reference

REFERENCE, LOADED, OWN = "ref", "ref.load()", "np.array(ref)"
DASK = "dj_npy.to_dask([ref])[0]"
WANTED = (REFERENCE, LOADED, OWN, DASK)

# A library with its name on PyPI, the version that was tried and its modules; then, by what they
# want, its calls with an array: of samples, of channels, an image and so on. Each call is an
# expression whose value for a reference must be the one for the array.
TABLE = r"""
Altair | altair 6.3.0 | altair pandas
  ref channel: altair.Chart(pandas.DataFrame({"y": ref})).mark_line().to_dict()["datasets"]

Awkward Array | awkward 2.14.0 | awkward
  ref channel: awkward.Array(ref)
  ref channel: awkward.mean(ref)
  ref.load() channel: awkward.from_numpy(ref)

bokeh | bokeh 3.9.2 | bokeh.models bokeh.plotting bokeh.core.serialization
  ref channel: bokeh.plotting.figure().line(range(2000), ref).data_source.data["y"]
  ref channel: bokeh.core.serialization.Serializer(deferred=False).encode(ref)

Bottleneck | bottleneck 1.6.0 | bottleneck
  ref channel: bottleneck.nanmean(ref)
  ref channel: bottleneck.move_mean(ref, 5)

Dask | dask 2026.8.0 | dask.array h5py
  ref channels: dask.array.from_array(ref, chunks=500).mean(0).compute()
  ref channels: dask.array.asarray(ref).compute()
  dj_npy.to_dask([ref])[0] channels: ref.std(axis=0).compute()
  dj_npy.to_dask([ref])[0] channels: dask.array.to_hdf5("1.h5", "/x", ref) or h5py.File("1.h5")["x"][:]

einops | einops 0.8.2 | einops
  ref.load() channels: einops.rearrange(ref, "t c -> c t")
  ref.load() channels: einops.reduce(ref, "t c -> c", "mean")

Elephant | elephant 1.2.1 | elephant.spectral elephant.statistics
  ref channel: elephant.statistics.isi(ref)
  ref channel: elephant.spectral.welch_psd(ref)[1]

h5py | h5py 3.16.0 | h5py
  ref channel: h5py.File("1.h5", "w").create_dataset("x", data=ref)[:]
  ref channel: h5py.File("2.h5", "w").create_dataset("x", data=ref, compression="gzip")[:]

HDMF | hdmf 6.2.0 | hdmf.backends.hdf5 hdmf.common hdmf.data_utils
  ref channels: next(hdmf.data_utils.DataChunkIterator(ref)).data
  ref.load() channel: hdmf.common.VectorData(name="x", description="x", data=ref).data
  ref.load() channel: hdmf.backends.hdf5.H5DataIO(ref, compression=True).data

imageio | imageio 2.38.1 | imageio.v3
  ref image: imageio.v3.imwrite("file.png", ref) or imageio.v3.imread("file.png")

JAX | jax 0.10.2 | jax.numpy
  ref channel: jax.numpy.asarray(ref)
  ref channel: jax.numpy.from_dlpack(ref)
  ref.load() channel: jax.numpy.sum(ref)
  ref.load() channel: jax.device_put(ref)

joblib | joblib 1.6.0 | joblib
  ref channel: joblib.Parallel(2, prefer="threads")(joblib.delayed(len)(x) for x in [ref])

lmfit | lmfit 1.3.4 | lmfit.models
  ref channel: lmfit.models.ConstantModel().fit(ref, x=range(2000)).best_values["c"]

matplotlib | matplotlib 3.11.2 | matplotlib.pyplot
  ref channels: [line.get_ydata() for line in matplotlib.pyplot.plot(ref)]
  ref channel: matplotlib.pyplot.hist(ref)[0]
  ref image: matplotlib.pyplot.imshow(ref).get_array().data

MNE | mne 1.13.2 | mne
  ref rows: mne.io.RawArray(ref, mne.create_info(4, 1000.0), verbose=False).get_data()
  ref.load() rows: mne.filter.filter_data(ref, 1000.0, 1, 40, verbose=False)

napari | napari 0.9.2 | napari.layers
  ref image: napari.layers.Image(ref).data
  ref channels: napari.layers.Points(ref).data
  dj_npy.to_dask([ref])[0] image: napari.layers.Image(ref).data.compute()

Neo | neo 0.14.6 | neo quantities
  ref channel: neo.AnalogSignal(ref, units="mV", sampling_rate=1 * quantities.Hz).magnitude

NetworkX | networkx 3.6.1 | networkx
  ref graph: networkx.to_numpy_array(networkx.from_numpy_array(ref))

NiBabel | nibabel 5.4.2 | nibabel
  ref volume: nibabel.Nifti1Image(ref, np.eye(4)).get_fdata()
  ref volume: nibabel.save(nibabel.Nifti1Image(ref, np.eye(4)), "1.nii") or nibabel.load("1.nii").get_fdata()

numba | numba 0.68.1 | numba
  ref channel: numba.vectorize(["float64(float64)"])(lambda x: x + 1)(ref)
  ref.load() channel: numba.njit(lambda x: x.sum())(ref)

NumExpr | numexpr 2.14.2 | numexpr
  ref channel: numexpr.evaluate("2 * x + 1", {"x": ref})

OpenCV | opencv-python-headless 5.0.0.93 | cv2
  ref.load() image: cv2.GaussianBlur(ref, (5, 5), 0)
  ref.load() image: cv2.imwrite("1.png", ref) and cv2.imread("1.png", 0)

pandas | pandas 3.1.1 | pandas
  ref channel: pandas.Series(ref).to_numpy()
  ref channels: pandas.DataFrame(ref).to_numpy()
  ref channel: pandas.DataFrame({"x": ref}).to_numpy()

Pillow | pillow 13.0.0 | PIL.Image
  ref.load() image: np.asarray(PIL.Image.fromarray(ref))

plotly | plotly 7.1.0 | plotly.express plotly.graph_objects
  ref channel: plotly.graph_objects.Figure(plotly.graph_objects.Scatter(y=ref)).to_json()
  ref image: plotly.graph_objects.Heatmap(z=ref).z
  ref image: plotly.express.imshow(ref).data[0].z

Polars | polars 2.1.0 | polars
  ref channels: polars.from_numpy(ref).to_numpy()
  ref.load() channel: polars.Series("x", ref).to_numpy()
  ref.load() channels: polars.DataFrame(ref).to_numpy()
  ref.load() channel: polars.DataFrame({"x": ref}).to_numpy()

pyarrow | pyarrow 26.0.1 | pyarrow
  ref channel: pyarrow.array(ref).to_numpy()
  ref channel: pyarrow.table({"x": ref})["x"].to_numpy()
  ref.load() channels: pyarrow.Tensor.from_numpy(ref).to_numpy()

pynapple | pynapple 0.11.4 | pynapple
  ref channel: pynapple.Tsd(t=np.arange(2000), d=ref).values
  ref channels: pynapple.TsdFrame(t=np.arange(2000), d=ref).values
  ref channel: pynapple.Ts(t=ref).t

PyNWB | pynwb 4.2.0 | pynwb hdmf.data_utils
  ref channels: next(hdmf.data_utils.DataChunkIterator(ref)).data
  ref.load() channel: pynwb.TimeSeries(name="x", data=ref, unit="V", rate=1.0).data
  ref.load() channel: pynwb.TimeSeries(name="x", unit="V", data=np.ones(2000), \
timestamps=ref).timestamps

PyTorch | torch 2.13.0 | torch
  ref channel: torch.as_tensor(ref)
  ref channel: torch.tensor(ref)
  ref channel: torch.from_dlpack(ref)
  np.array(ref) channel: torch.from_numpy(ref)

PyWavelets | pywavelets 1.9.0 | pywt
  ref image: pywt.dwt2(ref, "haar")[0]
  np.array(ref) channel: pywt.wavedec(ref, "db2")

Ray | ray 2.60.0 | ray.cloudpickle
  ref channel: ray.cloudpickle.loads(ray.cloudpickle.dumps(ref)).sum()

scikit-image | scikit-image 0.26.0 | skimage.exposure skimage.filters skimage.measure \
    skimage.transform
  ref image: skimage.filters.gaussian(ref)
  ref image: skimage.filters.threshold_otsu(ref)
  ref image: skimage.measure.label(ref > 100)
  ref image: skimage.transform.resize(ref, (32, 24))
  ref image: skimage.exposure.equalize_hist(ref)
  np.array(ref) image: skimage.filters.rank.median(ref)

scikit-learn | scikit-learn 1.9.1 | sklearn.cluster sklearn.decomposition sklearn.linear_model \
    sklearn.model_selection sklearn.preprocessing
  ref channels: sklearn.decomposition.PCA(2).fit_transform(ref)
  ref channels: sklearn.preprocessing.StandardScaler().fit_transform(ref)
  ref channels: sklearn.cluster.KMeans(2, random_state=0, n_init=1).fit(ref).labels_
  ref channels: sklearn.linear_model.LinearRegression().fit(ref, ref[:, 0]).coef_
  ref channels: sklearn.model_selection.train_test_split(ref, random_state=0)

SciPy | scipy 1.17.1 | scipy.fft scipy.interpolate scipy.io scipy.linalg scipy.ndimage \
    scipy.signal scipy.sparse scipy.spatial scipy.stats
  ref channel: scipy.signal.welch(ref)
  ref channel: scipy.signal.find_peaks(ref)[0]
  ref channels: scipy.stats.zscore(ref)
  ref channel: scipy.stats.ttest_1samp(ref, 0).pvalue
  ref channels: scipy.ndimage.gaussian_filter(ref, 2)
  ref channels: scipy.fft.rfft(ref, axis=0)
  ref channels: scipy.linalg.svd(ref)[1]
  ref channel: scipy.interpolate.CubicSpline(range(2000), ref)(0.5)
  ref channels: scipy.spatial.cKDTree(ref).query([0, 0, 0, 0])
  ref channels: scipy.sparse.csr_array(ref).toarray()
  ref channels: scipy.io.savemat("file.mat", {"x": ref}) or scipy.io.loadmat("file.mat")["x"]

seaborn | seaborn 0.13.2 | seaborn
  ref channel: seaborn.histplot(ref).patches[0].get_height()
  ref channels: seaborn.heatmap(ref).collections[0].get_array().data
  ref channel: seaborn.lineplot(y=ref, x=range(2000)).lines[0].get_ydata()

SimpleITK | simpleitk 2.5.7 | SimpleITK
  ref volume: SimpleITK.GetArrayFromImage(SimpleITK.GetImageFromArray(ref))

sparse | sparse 0.19.3 | sparse
  ref channels: sparse.COO.from_numpy(ref).todense()
  ref.load() channels: sparse.COO(ref).todense()

SpikeInterface | spikeinterface 0.105.3 | spikeinterface.core
  ref.load() channels: spikeinterface.core.NumpyRecording([ref], 30000).get_traces()

statsmodels | statsmodels 0.15.0 | statsmodels.api statsmodels.tsa.stattools
  ref channels: statsmodels.api.OLS(ref[:, 0], ref).fit().params
  ref channel: statsmodels.tsa.stattools.acf(ref)

TensorFlow | tensorflow-cpu 2.21.0 | tensorflow
  ref channel: tensorflow.constant(ref)
  ref channel: tensorflow.reduce_sum(ref)
  ref channels: next(iter(tensorflow.data.Dataset.from_tensor_slices(ref)))

TensorStore | tensorstore 0.1.86 | tensorstore
  ref channel: tensorstore.array(ref).read().result()

tifffile | tifffile 2026.3.3 | tifffile
  ref image: tifffile.imwrite("file.tif", ref) or tifffile.imread("file.tif")

xarray | xarray 2026.9.0 | xarray
  ref channels: xarray.DataArray(ref, dims=("t", "c")).mean("t").values
  dj_npy.to_dask([ref])[0] channels: xarray.DataArray(ref, dims=("t", "c")).mean("t").values

zarr | zarr 3.1.6 | zarr
  ref channel: zarr.array(ref)[:]
"""  # noqa: E501


class Call(NamedTuple):
    wants: str
    kind: str
    """Of the array: see `arrays`."""
    expression: str


class Library(NamedTuple):
    name: str
    distribution: str
    version: str
    modules: list[str]
    calls: list[Call]


def _library(text: str) -> Library:
    head, *lines = text.strip().replace("\\\n", "").splitlines()
    name, released, modules = head.split(" | ")
    calls = []
    for line in lines:
        before, expression = line.strip().split(": ", 1)
        wants, kind = before.rsplit(" ", 1)
        assert wants in WANTED, line
        calls.append(Call(wants, kind, expression))
    distribution, version = released.split()
    return Library(name, distribution, version, modules.split(), calls)


LIBRARIES = {library.name: library for library in map(_library, TABLE.strip().split("\n\n"))}


def table() -> str:
    """The table of the page."""
    lines = [
        "| library and version | takes the reference | wants something else |",
        "| --- | --- | --- |",
    ]
    for library in LIBRARIES.values():
        takes = [call.expression for call in library.calls if call.wants == REFERENCE]
        others = [
            re.sub(r"\bref\b", call.wants, call.expression)
            for call in library.calls
            if call.wants != REFERENCE
        ]
        cells = ["<br>".join(f"`{x}`" for x in some) or "-" for some in (takes, others)]
        lines.append(f"| {library.name} {library.version} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def arrays() -> dict[str, Any]:
    random = np.random.default_rng(1)
    graph = np.triu(random.integers(0, 2, (30, 30)), 1) * 1.0
    return {
        "channel": random.standard_normal(2000),
        "channels": random.standard_normal((2000, 4)),
        "rows": random.standard_normal((4, 4000)),
        "image": random.integers(0, 255, (64, 48), np.uint8),
        "volume": random.standard_normal((8, 9, 10)),
        "graph": graph + graph.T,
    }


def same(one: Any, other: Any) -> bool:
    """Whether a library made the same of an array and of a reference."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, str | dict) or one is None:
        return bool(one == other)
    one, other = np.asarray(one), np.asarray(other)
    if one.dtype != other.dtype or one.dtype == object:
        return bool(one.dtype == other.dtype and repr(one) == repr(other))
    if one.dtype.kind in "fc":  # the last digit may depend on where in memory the data are
        return one.shape == other.shape and np.allclose(one, other, 1e-6, 1e-9, equal_nan=True)
    return bool(np.array_equal(one, other))


class Trial:
    """References in an empty folder, and how often a part of one is read."""

    MOST_READS = 40
    """As many as there are nodes, channels or chunks, but not samples."""

    def __init__(self) -> None:
        stores = {"default": "main", "main": {"protocol": "file", "location": os.getcwd()}}
        self.arrays = arrays()
        self.refs = {
            kind: reference(array, stores, number)
            for number, (kind, array) in enumerate(self.arrays.items())
        }
        self.reads = 0
        read_part = dj_npy.NpyRef._read_part

        def counting(ref: dj_npy.NpyRef, *args: Any) -> Any:
            self.reads += 1
            return read_part(ref, *args)

        setattr(dj_npy.NpyRef, "_read_part", counting)  # noqa: B010
        setattr(dj_npy.settings, "load_below", 0)  # noqa: B010 - as if the arrays were large

    def of(self, library: Library) -> list[str]:
        """Return what is not as the table says."""
        names: dict[str, Any] = {"np": np, "dj_npy": dj_npy}
        for module in library.modules:
            importlib.import_module(module)
            names[module.split(".")[0]] = sys.modules[module.split(".")[0]]
        found = [(call.expression, self.fault(call, names)) for call in library.calls]
        assert all(map(same, self.arrays.values(), self.refs.values())), "data were changed"
        return [f"{expression}: {fault}" for expression, fault in found if fault]

    def fault(self, call: Call, names: dict[str, Any]) -> str | None:
        """Return what is wrong about a call, if anything is."""

        def value(given: Any) -> Any:
            return eval(call.expression, {**names, "ref": given})

        array, ref = self.arrays[call.kind].copy(), self.refs[call.kind]
        if call.wants == DASK:
            lazy = names["dask"].array if "dask" in names else importlib.import_module("dask.array")
            same_value = same(value(lazy.from_array(array)), value(dj_npy.to_dask([ref])[0]))
            return None if same_value else "differs"
        expected = value(array)
        ref.unload()
        self.reads, start = 0, time.monotonic()
        try:
            got = value(ref)
        except Exception as error:
            if call.wants == REFERENCE:
                return f"refuses a reference: {type(error).__name__}: {error}"
            got = value(eval(call.wants, {**names, "ref": ref}))
        else:
            if call.wants != REFERENCE:
                return "takes a reference by now"
        if self.reads > self.MOST_READS or time.monotonic() - start > 60:
            return f"reads {self.reads} times, in {time.monotonic() - start:.0f} s"
        return None if same(expected, got) else f"is {got!r:.200} and not {expected!r:.200}"


def main(names: list[str]) -> int:
    if names == ["--table"]:
        print(table())
        return 0
    os.environ |= {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    warnings.simplefilter("ignore")
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        trial = Trial()
        for name in names or LIBRARIES:
            library = LIBRARIES[name]
            try:
                version = importlib.metadata.version(library.distribution)
            except importlib.metadata.PackageNotFoundError:
                print(f"{name}: not installed")
                continue
            found = trial.of(library)
            wrong += len(found)
            print(f"{name} {version}: {len(library.calls)} calls", *found, sep="\n  ", flush=True)
        os.chdir("/")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
