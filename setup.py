"""Packages are found: the repository's root is the package ``guidestar``."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

OUTSIDE = ("benchmarks", "docs", "examples", "findings", "out", "scripts", "tests")
FOUND = find_packages(".", exclude=[f"{name}{more}" for name in OUTSIDE for more in ("", ".*")])


class WithoutThisFile(build_py):
    """Build the package without this file, which lies among its modules."""

    def find_package_modules(self, package, package_dir):
        """Return (package, module, file) of a package's modules."""
        found = super().find_package_modules(package, package_dir)
        return [one for one in found if one[:2] != ("guidestar", "setup")]


if __name__ == "__main__":
    setup(
        package_dir={"guidestar": "."},
        packages=["guidestar", *(f"guidestar.{name}" for name in FOUND), "guidestar.weights"],
        cmdclass={"build_py": WithoutThisFile},
    )
