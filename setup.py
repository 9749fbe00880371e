"""The part of the build that setup.cfg cannot express: the native library, which is compiled if it can be."""

import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

# The modules that say how to compile need nothing that may not be installed yet, unlike the packages that they are in.
for name, folder in {"cuista": "cuista", "cuista.kernels": "kernels"}.items():
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [folder]

from cuista.kernels.constants import DEFINITIONS  # noqa: E402
from cuista.kernels.native import FLAGS, SOURCES  # noqa: E402

library = Extension(
    "cuista.kernels._native",
    sources=[f"kernels/{source}.cpp" for source in SOURCES],
    depends=[*map(str, Path("kernels").glob("*.h")), *map(str, Path("kernels").glob("*.cuh"))],
    extra_compile_args=[*FLAGS, *DEFINITIONS],
    language="c",  # how it is linked: nothing of the C++ library is used …
    libraries=["m"],  # … but two of C's functions
    py_limited_api=True,
    optional=True,
)


class Wheel(bdist_wheel):
    """A wheel that serves one platform only if there was a compiler."""

    def get_tag(self):
        compiled = any(Path(self.bdist_dir).rglob("_native*.so"))
        return super().get_tag() if compiled else ("py3", "none", "any")


setup(ext_modules=[library], cmdclass={"bdist_wheel": Wheel}, options={"bdist_wheel": {"py_limited_api": "cp310"}})
